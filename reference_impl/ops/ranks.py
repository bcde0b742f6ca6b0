"""Ranks: places in a sorted list, of all elements or of those of a group, without a loop over the groups."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import is_plain, widen

__all__ = ["descending_order", "descending_rank", "rank_within_groups"]

# From here on a CPU sorts integers by radix, a row at a time, and several times as fast as floats.
MANY = 2**15


def descending_order(value: Float[Tensor, "*batch n"], among: Bool[Tensor, "*batch n"] | None = None) -> Int[Tensor, "*batch n"]:
    """Indices that sort the values from high to low; the earlier element comes first in a tie, and what is not `among` them last.

    What is not a number comes behind all finite numbers.
    """
    value = widen(value.detach() if value.requires_grad else value)
    # In torch 2.11 no transform can look at the bits of a number.
    if value.shape[-1] < MANY or value.device.type != "cpu" or not (torch.compiler.is_compiling() or is_plain(value)):
        # A sort puts what is not a number last.
        value = -value if among is None else torch.where(among, (-value).nan_to_num_(torch.inf, torch.inf, -torch.inf), torch.nan)
        return value.argsort(stable=True)
    key = _integer_image(value.nan_to_num(-torch.inf, torch.inf, -torch.inf))
    if among is not None:
        key = torch.maximum(key, _least_or_most(~among, key.dtype))
    if key.dim() == 1:
        return key.argsort(stable=True)
    rows = [row.argsort(stable=True) for row in key.reshape(-1, key.shape[-1])]
    return torch.stack(rows).view(value.shape) if rows else torch.empty_like(key, dtype=torch.int64)


def _integer_image(value: Tensor) -> Tensor:
    """Integers in the opposite order of the floats, without a choice for each element, which takes a processor longer than arithmetic."""
    integer = torch.int64 if value.dtype == torch.float64 else torch.int32
    limits = torch.iinfo(integer)
    # A float is a sign and a magnitude, which grows downwards below zero. Zero has both signs, but not as a sum.
    bits = (value + 0.0).contiguous().view(integer)
    return (bits ^ ((bits >> (limits.bits - 1)) & limits.max)).bitwise_not_()


def _least_or_most(most: Tensor, integer: torch.dtype) -> Tensor:
    """The highest number of a dtype, or else the lowest."""
    return most.to(integer).neg_().bitwise_xor_(torch.iinfo(integer).min)


@checked
def descending_rank(value: Float[Tensor, "*batch n"]) -> Int[Tensor, "*batch n"]:
    """Place of each element, 0 for the highest value; the earlier element wins a tie."""
    order = descending_order(value)
    return torch.empty_like(order).scatter(-1, order, _places(order))


@checked
def rank_within_groups(key: Int[Tensor, "*batch n"], group: Int[Tensor, "*batch n"]) -> Int[Tensor, "*batch n"]:
    """Place of each element among those of its group, 0 for the lowest key; the earlier element wins a tie.

    Args:
        key: what to sort by: a rank, or a combination of ranks (`first * n + second` sorts by one, then by the other).
        group: any integers; equal ones form a group.
    """
    by_key = key.argsort(dim=-1, stable=True)
    group = group.gather(-1, by_key)
    by_group = group.argsort(dim=-1, stable=True)
    group = group.gather(-1, by_group)
    order = by_key.gather(-1, by_group)
    place = _places(order)
    same = torch.diff(group, prepend=group[..., :1]) == 0
    start = place.masked_fill(same, 0).cummax(-1).values
    return torch.empty_like(order).scatter(-1, order, place - start)


def _places(like: Tensor) -> Tensor:
    """0, 1, 2, ... along the last dimension, in the shape of `like`."""
    return torch.arange(like.shape[-1], device=like.device).expand_as(like)
