"""Hard selection: which boxes of a set stay in a batch."""

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from reference_impl.ops.ranks import descending_order

__all__ = ["first", "take"]


def take(score: Float[Tensor, "*batch n"], among: Bool[Tensor, "*batch n"], count: int | Num[Tensor, "*batch"]) -> Bool[Tensor, "*batch n"]:
    """The `count` boxes of `among` with the highest score; the earlier box wins a tie.

    Args:
        score: what to choose by; a fresh `torch.rand` makes the choice uniform.
        among: the candidates.
        count: how many to take at most, one number for all or one for each set; with fewer candidates, all are taken.
    """
    order = descending_order(score, among)
    number = torch.arange(1, order.shape[-1] + 1, device=order.device)
    taken = number <= count[..., None] if isinstance(count, Tensor) else (number <= count).expand_as(order)
    return among & among.scatter(-1, order, taken)


def first(among: Bool[Tensor, "*batch n"], count: int | Int[Tensor, "*batch 1"]) -> Bool[Tensor, "*batch n"]:
    """The `count` first boxes of `among`, one number for all or one for each set."""
    return among & (among.cumsum(-1) <= count)
