"""Hard selection: which boxes of a set stay in a batch, and which two of them are nearest."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from reference_impl.ops.numerics import host_may_look, widen
from reference_impl.ops.ranks import descending_order
from reference_impl.ops.soft_ranks import descending

__all__ = ["closest_pair", "take", "taker"]

# From here on the last that is taken is found sooner than all are sorted.
MANY = 2**11


def take(
    score: Float[Tensor, "*batch n"],
    among: Bool[Tensor, "*batch n"],
    count: int | Num[Tensor, "*batch 1"],
    most: int | None = None,
) -> Bool[Tensor, "*batch n"]:
    """The `count` boxes of `among` with the highest score; the earlier box wins a tie.

    Args:
        score: what to choose by; a fresh `torch.rand` makes the choice uniform.
        among: the candidates.
        count: how many to take at most, one number for all or one for each set; with fewer candidates, all are taken.
        most: a number that `count` does not exceed, if one is known; a graph then need not sort many boxes.
    """
    n = score.shape[-1]
    if isinstance(count, int):
        most = count
    elif most is None and not torch.compiler.is_compiling() and n >= MANY and host_may_look(among):
        most = int(max(count.clamp(0, n).flatten().tolist(), default=0))
    if most is not None and n >= MANY:
        return _take_of_many(score, among, count, most)
    # A slice would give a compiler one graph for sets that are smaller than the count, and another for the rest.
    if isinstance(count, int) and not torch.compiler.is_compiling():
        return among.clone() if count >= n else among.scatter(-1, descending_order(score, among)[..., max(count, 0) :], False)
    return _take_in_order(descending_order(score), among, count)


def taker(score: Float[Tensor, "*batch n"]) -> Callable[..., Tensor]:
    """Takes by one score from several sets of candidates: few boxes are sorted once for all of them.

    Args:
        score: as for `take`.

    Returns:
        What is called with the other arguments of `take`, and gives the same.
    """
    if score.shape[-1] >= MANY:
        return partial(take, score)
    order = descending_order(score)
    return lambda among, count, most=None: _take_in_order(order, among, count)


def _take_in_order(order: Tensor, among: Tensor, count: int | Tensor) -> Tensor:
    taken = _first(among.gather(-1, order), count)
    if torch.compiler.is_compiling():
        # A compiler stores numbers several at a time, and truth values one by one.
        return torch.zeros_like(order, dtype=torch.int32).scatter(-1, order, taken.int()).bool()
    return among.scatter(-1, order, taken)


def _take_of_many(score: Tensor, among: Tensor, count: int | Tensor, most: int) -> Tensor:
    """To find the last that is taken costs less than to sort all, and to see that all are, which a device would wait for, less still."""
    if _all_fit(among, count):
        return among.clone()
    score = _lowest_outside(widen(score.detach()), among)
    most = min(max(most, 1), score.shape[-1])
    highest = score.topk(most, sorted=False).values
    if isinstance(count, int):
        least = highest.amin(-1, keepdim=True)
    else:
        last = (count - 1).clamp(0, most - 1).long()
        least = descending(highest)[0].gather(-1, last.expand(*highest.shape[:-1], 1))
    above = (highest > least).sum(-1, keepdim=True)
    equals = (score == least).logical_and_(among)
    return (score > least).logical_or_(equals if _all_fit(equals, count - above) else _first(equals, count - above))


def _all_fit(among: Tensor, count: int | Tensor) -> bool:
    return host_may_look(among) and bool((among.sum(-1, keepdim=True) <= count).all())


def _lowest_outside(score: Tensor, among: Tensor) -> Tensor:
    """Minus infinity for what is no candidate or no number. Not compiled, a choice for each element takes the CPU five times as long."""
    if torch.compiler.is_compiling():
        return torch.where(among & (score >= -torch.inf), score, -torch.inf)
    bound = among.int().to(score.dtype).sub_(0.5).mul_(torch.inf)
    return torch.minimum(score, bound).nan_to_num_(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def _first(among: Bool[Tensor, "*batch n"], count: int | Num[Tensor, "*batch 1"]) -> Bool[Tensor, "*batch n"]:
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
