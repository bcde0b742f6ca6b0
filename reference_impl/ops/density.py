"""How many elements are alike: neighbours within a window, counts in bins, and weights that undo them. Counts are integers."""

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import safe_divide, widen

__all__ = ["bin_counts", "bin_index", "inverse_density", "neighbour_counts"]


@checked
def neighbour_counts(
    value: Float[Tensor, "*batch n"], valid: Bool[Tensor, "*batch n"], *, width: float, tolerance: float
) -> Int[Tensor, "*batch n"]:
    """For each element, how many of the valid ones lie in the closed window of `width` around it; a valid element counts itself.

    Args:
        value: what to compare.
        valid: the others are counted by nobody.
        width: of the window, which reaches half of it to either side.
        tolerance: a distance that exceeds half the width by no more than this is a tie, and a tie is inside. Without it, rounding decides:
            0.9 - 0.7 is more than 0.4 / 2 in floating point, 0.8 - 0.6 is less.
    """
    value = widen(value.detach())
    reach = width / 2 + tolerance
    ordered = value.masked_fill(~valid, torch.inf).sort(dim=-1).values.contiguous()
    below = torch.searchsorted(ordered, (value - reach).contiguous())
    return torch.searchsorted(ordered, (value + reach).contiguous(), right=True) - below


@checked
def bin_index(value: Float[Tensor, "*n"], *, bins: int, lowest: float = 0.0, highest: float = 1.0) -> Int[Tensor, "*n"]:
    """Which of `bins` equal parts of [`lowest`, `highest`] a value lies in; an edge belongs to the part above it, the last to the last.

    What lies outside is in the first or the last part. A value that rounding may have put below an edge (by two units in the last place of
    the whole length, at most) counts as on the edge.
    """
    value, length = widen(value.detach()), highest - lowest
    above = value - (lowest - 2 * torch.finfo(value.dtype).eps * length)
    return above.mul_(bins / length).long().clamp(0, bins - 1)


@checked
def bin_counts(value: Float[Tensor, "*batch n"], valid: Bool[Tensor, "*batch n"], *, bins: int) -> Int[Tensor, "*batch bins"]:
    """How many valid elements lie in each of `bins` equal parts of [0, 1]."""
    counts = torch.zeros(*value.shape[:-1], bins, dtype=torch.int64, device=value.device)
    return counts.scatter_add(-1, bin_index(value, bins=bins), valid.long())


@checked
def inverse_density(
    count: Num[Tensor, "*batch n"], total: Num[Tensor, "*batch 1"], length: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch n"]:
    r"""The weight that evens out a density: 1 where elements are as dense as on average over [0, 1], more where they are sparse.

    $$ N \Big/ \frac{\mathrm{count}}{\mathrm{length}} $$

    Args:
        count: elements in a region, which may be an average.
        total: $N$, elements in all.
        length: of the region, in the unit of [0, 1].

    Returns:
        The weight, 0 for an empty region.
    """
    return safe_divide(total * length, count.to(length.dtype))
