"""Connected groups of pixels."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop
from torch.nn.functional import pad

from reference_impl.ops.checked import checked

__all__ = ["connected_components"]


@checked
def connected_components(mask: Bool[Tensor, "*batch h w"]) -> Int[Tensor, "*batch h w"]:
    """Which pixels hang together; those that touch at a corner do.

    Each pixel points at a later one of its group, at first at itself. In a round it tells the one that it points at how far its neighbours
    point, and then points where that one does, so that ways double. The CPU and a compiled loop stop when nothing changes. Elsewhere the
    host does not look: pixels go to the end of their way, and of the ends that a group has, two rounds leave at most half.

    Args:
        mask: the pixels to group.

    Returns:
        For each of them the place of the last pixel of its group, row by row; -1 for the others.
    """
    height, width = mask.shape[-2:]
    looks = mask.device.type == "cpu" or torch.compiler.is_compiling()
    ways = (height * width).bit_length()

    def point_further(label: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        near = pad(label, (1, 1, 1, 1), value=-1)
        for _ in range(2):
            near = torch.maximum(near[..., 1:-1], torch.maximum(near[..., :-2], near[..., 2:])).mT
        near = torch.where(mask, near, -1).flatten(-2)
        near = near.scatter_reduce(-1, label.flatten(-2).clamp(min=0), near, "amax")
        for _ in range(1 if looks else ways):
            near = torch.maximum(near, near.gather(-1, near.clamp(min=0)))
        return torch.where(mask, near.view_as(label), -1), label.clone()

    label = torch.where(mask, torch.arange(height * width, device=mask.device).view(height, width), -1)
    state = label, torch.full_like(label, -1)
    if torch.compiler.is_compiling():
        state = while_loop(lambda label, before: (label != before).any(), point_further, state)  # type: ignore[no-untyped-call]
    elif looks:
        while not state[0].equal(state[1]):
            state = point_further(*state)
    else:
        for _ in range(2 * ways):
            state = point_further(*state)
    return state[0]
