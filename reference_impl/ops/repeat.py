"""Steps that are taken a fixed number of times."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

__all__ = ["repeated"]


def repeated(step: Callable[..., tuple[Tensor, ...]], state: tuple[Tensor, ...], times: int) -> tuple[Tensor, ...]:
    """`state` after so many steps. A compiler's graph holds one step, not all of them.

    Args:
        step: makes of the tensors of a state new ones with the same shapes and dtypes.
        state: tensors with elements that share no memory, and do not need a gradient.
        times: >= 0.
    """
    if torch.compiler.is_compiling() and state[0].numel():
        counted = torch.zeros((), dtype=torch.int64, device=state[0].device), *state
        after: tuple[Tensor, ...] = while_loop(lambda k, *_: k < times, lambda k, *now: (k + 1, *step(*now)), counted)[1:]  # type: ignore[no-untyped-call]
        return after
    for _ in range(times):
        state = step(*state)
    return state
