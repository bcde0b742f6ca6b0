"""Hard selection: which boxes of a set stay in a batch, and which two of them are nearest."""

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from reference_impl.ops.ranks import descending_order

__all__ = ["closest_pair", "first", "take"]


def take(score: Float[Tensor, "*batch n"], among: Bool[Tensor, "*batch n"], count: int | Num[Tensor, "*batch"]) -> Bool[Tensor, "*batch n"]:
    """The `count` boxes of `among` with the highest score; the earlier box wins a tie.

    Args:
        score: what to choose by; a fresh `torch.rand` makes the choice uniform.
        among: the candidates.
        count: how many to take at most, one number for all or one for each set; with fewer candidates, all are taken.
    """
    order = descending_order(score, among)
    if not isinstance(count, Tensor):
        return among & torch.zeros_like(among).scatter(-1, order[..., : max(count, 0)], True)
    number = torch.arange(1, order.shape[-1] + 1, device=order.device)
    return among & among.scatter(-1, order, number <= count[..., None])


def first(among: Bool[Tensor, "*batch n"], count: int | Int[Tensor, "*batch 1"]) -> Bool[Tensor, "*batch n"]:
    """The `count` first boxes of `among`, one number for all or one for each set."""
    return among & (among.cumsum(-1) <= count)


def closest_pair(
    distance: Float[Tensor, "*batch n n"], among: Bool[Tensor, "*batch n"]
) -> tuple[Int[Tensor, "*batch 1"], Int[Tensor, "*batch 1"], Float[Tensor, "*batch 1"]]:
    """The two boxes of `among` with the smallest distance; the earlier pair wins a tie, by its first box and then by its second.

    Args:
        distance: of all pairs; only what is above the diagonal counts.
        among: the candidates.

    Returns:
        Index of the earlier one, of the later one, and their distance, infinite without two candidates. There has to be a box.
    """
    n = among.shape[-1]
    place = torch.arange(n, device=among.device)
    pairs = among[..., :, None] & among[..., None, :] & (place > place[:, None])
    flat = distance.masked_fill(~pairs, torch.inf).flatten(-2)
    index = flat.argmin(-1, keepdim=True)
    return index // n, index % n, flat.gather(-1, index)
