"""Offset bin classification: Qiu, Li, Wu and Shi, CVPR 2020."""

import torch
from jaxtyping import Float
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.density import bin_index
from reference_impl.ops.numerics import entropy_of_class, widen

__all__ = ["expected_offset", "offset_bin_classification"]


@checked
def offset_bin_classification(
    logits: Float[Tensor, "*batch n bins"], target: Float[Tensor, "*batch n"], *, lowest: float = -1.0, highest: float = 1.0
) -> Float[Tensor, "*batch n"]:
    r"""Asks which part of its range an offset lies in, so that a large error has a gradient no larger than a small one.

    $$ L = -\ln S_y, \qquad y = \left\lfloor K\,\frac{t - t_{min}}{t_{max} - t_{min}} \right\rfloor, \qquad S = \mathrm{softmax}(x) $$

    The gradient on a logit is $S_k - [k = y]$, whatever the offset. `expected_offset` reads the offset back. No gradient passes to the
    target.

    Args:
        logits: $x$, one for each of $K$ bins of equal size.
        target: $t$, an offset between candidate and object, as from `encode_deltas`. One that lies outside of the range counts to the bin
            that is nearest.
        lowest: $t_{min}$, where the first bin begins.
        highest: $t_{max}$, where the last one ends.

    Returns:
        One loss for each offset.

    Raises:
        ValueError: `lowest` is not below `highest`, or the shapes do not fit together.
    """
    _check_range("offset_bin_classification", lowest, highest)
    own = bin_index(target, bins=logits.shape[-1], lowest=lowest, highest=highest)
    return entropy_of_class(widen(logits).log_softmax(-1), own)


@checked
def expected_offset(logits: Float[Tensor, "*batch n bins"], *, lowest: float = -1.0, highest: float = 1.0) -> Float[Tensor, "*batch n"]:
    r"""The offset at inference: the mean of the bins' middles, so that it is not bound to one of them.

    $$ \hat t = \sum_k S_k c_k, \qquad c_k = t_{min} + (k + \tfrac12)\,\frac{t_{max} - t_{min}}{K} $$

    Args:
        logits: one for each of $K$ bins.
        lowest: $t_{min}$, as in training.
        highest: $t_{max}$, as in training.

    Returns:
        One offset, at least half a bin inside the range. It may be negative.

    Raises:
        ValueError: `lowest` is not below `highest`.
    """
    _check_range("expected_offset", lowest, highest)
    share, bins = widen(logits).softmax(-1), logits.shape[-1]
    place = (torch.arange(bins, dtype=share.dtype, device=share.device) + 0.5) / bins
    return lowest + (highest - lowest) * (share * place).sum(-1)


def _check_range(function: str, lowest: float, highest: float) -> None:
    if not lowest < highest:
        raise ValueError(f"{function}: expected lowest < highest, got {lowest} and {highest}")
