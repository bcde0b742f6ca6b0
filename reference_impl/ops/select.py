"""Hard selection: which boxes of a set stay in a batch, and which two of them are nearest."""

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from reference_impl.ops.numerics import widen
from reference_impl.ops.ranks import MANY, descending_order

__all__ = ["closest_pair", "first", "take"]


def take(score: Float[Tensor, "*batch n"], among: Bool[Tensor, "*batch n"], count: int | Num[Tensor, "*batch"]) -> Bool[Tensor, "*batch n"]:
    """The `count` boxes of `among` with the highest score; the earlier box wins a tie.

    Args:
        score: what to choose by; a fresh `torch.rand` makes the choice uniform.
        among: the candidates.
        count: how many to take at most, one number for all or one for each set; with fewer candidates, all are taken.
    """
    if isinstance(count, int) and not torch.compiler.is_compiling():
        return _take_few(score, among, count) if score.shape[-1] < MANY else _take_of_many(score, among, count)
    order = descending_order(score, among)
    number = torch.arange(1, order.shape[-1] + 1, device=order.device)
    taken = number <= count[..., None] if isinstance(count, Tensor) else (number <= count).expand_as(order)
    return among & among.scatter(-1, order, taken)


def _take_few(score: Tensor, among: Tensor, count: int) -> Tensor:
    return among & torch.zeros_like(among).scatter_(-1, descending_order(score, among)[..., : max(count, 0)], True)


def _take_of_many(score: Tensor, among: Tensor, count: int) -> Tensor:
    """To find the last that is taken costs less than to sort all."""
    score = widen(score.detach())
    score = score.masked_fill(~among | score.isnan(), -torch.inf)
    least = score.topk(min(max(count, 1), score.shape[-1])).values[..., -1:]
    above = score > least
    return above | first(among & (score == least), count - above.sum(-1, keepdim=True))


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
