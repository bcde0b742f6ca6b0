"""Hard selection: which boxes of a set stay in a batch, and which two of them are nearest."""

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from reference_impl.ops.numerics import is_plain, widen
from reference_impl.ops.ranks import MANY, descending_order

__all__ = ["closest_pair", "first", "take"]


def take(
    score: Float[Tensor, "*batch n"], among: Bool[Tensor, "*batch n"], count: int | Num[Tensor, "*batch 1"]
) -> Bool[Tensor, "*batch n"]:
    """The `count` boxes of `among` with the highest score; the earlier box wins a tie.

    Args:
        score: what to choose by; a fresh `torch.rand` makes the choice uniform.
        among: the candidates.
        count: how many to take at most, one number for all or one for each set; with fewer candidates, all are taken.
    """
    if isinstance(count, int) and score.shape[-1] >= MANY:
        return _take_of_many(score, among, count)
    # A slice would give a compiler one graph for sets that are smaller than the count, and another for the rest.
    if isinstance(count, int) and not torch.compiler.is_compiling():
        return among.scatter(-1, descending_order(score, among)[..., max(count, 0) :], False)
    order = descending_order(score)
    return among.scatter(-1, order, first(among.gather(-1, order), count))


def _take_of_many(score: Tensor, among: Tensor, count: int) -> Tensor:
    """To find the last that is taken costs less than to sort all, and to see that all are, which a device would wait for, less still."""
    if among.device.type == "cpu" and is_plain(among) and bool((among.sum(-1) <= count).all()):
        return among.clone()
    score = _lowest_outside(widen(score.detach()), among)
    highest = score.topk(min(max(count, 1), score.shape[-1]), sorted=False).values
    least = highest.amin(-1, keepdim=True)
    above = (highest > least).sum(-1, keepdim=True)
    return (score > least).logical_or_(first((score == least).logical_and_(among), count - above))


def _lowest_outside(score: Tensor, among: Tensor) -> Tensor:
    """Minus infinity for what is no candidate or no number. Not compiled, a choice for each element takes the CPU five times as long."""
    if torch.compiler.is_compiling():
        return torch.where(among & (score >= -torch.inf), score, -torch.inf)
    bound = among.int().to(score.dtype).sub_(0.5).mul_(torch.inf)
    return torch.minimum(score, bound).nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def first(among: Bool[Tensor, "*batch n"], count: int | Num[Tensor, "*batch 1"]) -> Bool[Tensor, "*batch n"]:
    """The `count` first boxes of `among`, one number for all or one for each set."""
    number = among.cumsum(-1, dtype=count.dtype if isinstance(count, Tensor) else None)
    return (number <= count).logical_and_(among)


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
