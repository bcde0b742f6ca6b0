"""Connected groups of pixels."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop
from torch.nn.functional import pad

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import host_may_look

__all__ = ["connected_components"]


@checked
def connected_components(mask: Bool[Tensor, "*batch h w"]) -> Int[Tensor, "*batch h w"]:
    """Which pixels hang together; those that touch at a corner do.

    Each pixel points at a later one of its group, at first at itself, and in rounds at ever later ones, until all point at the last. The
    CPU and a compiled loop stop when nothing changes; a device and `vmap` take as many rounds as the worst map needs.

    Args:
        mask: the pixels to group.

    Returns:
        For each of them the place of the last pixel of its group, row by row; -1 for the others.
    """
    height, width = mask.shape[-2:]
    label = torch.where(mask, torch.arange(height * width, device=mask.device).view(height, width), -1)
    compiling = torch.compiler.is_compiling()
    if not compiling and not host_may_look(mask):
        return _without_looking(mask, label)

    def further(label: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        return _point_further(mask, label), label.clone()

    state = label, torch.full_like(label, -1)
    if compiling:
        state = while_loop(lambda label, before: (label != before).any(), further, state)  # type: ignore[no-untyped-call]
    else:
        while not state[0].equal(state[1]):
            state = further(*state)
    return state[0]


def _without_looking(mask: Tensor, label: Tensor) -> Tensor:
    """All go to the end of their way in each round. Of the ends that a group has, two rounds leave at most half, as long as it has several.

    An end goes on if what points there touches what points at a later one. If an end stays, one that it touches is earlier, and goes.
    Either it comes to this end, or it goes to a later one, which this end then touches and has to follow in the next round.
    """
    ways = mask.shape[-2:].numel().bit_length()
    for _ in range(2 * ways):
        label = _point_further(mask, label, steps=ways)
    return label


def _point_further(mask: Tensor, label: Tensor, steps: int = 1) -> Tensor:
    """Each pixel tells the one that it points at how far its neighbours point, and then points where that one does; so ways double."""
    near = pad(label, (1, 1, 1, 1), value=-1)
    for _ in range(2):
        near = torch.maximum(near[..., 1:-1], torch.maximum(near[..., :-2], near[..., 2:])).mT
    near = torch.where(mask, near, -1).flatten(-2)
    near = near.scatter_reduce(-1, label.flatten(-2).clamp(min=0), near, "amax")
    for _ in range(steps):
        near = torch.maximum(near, near.gather(-1, near.clamp(min=0)))
    return torch.where(mask, near.view_as(label), -1)
