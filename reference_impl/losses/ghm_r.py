"""GHM-R, the gradient harmonising mechanism for box regression: Li, Liu and Wang, AAAI 2019."""

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from reference_impl.ops.checked import checked, require_positive
from reference_impl.ops.density import bin_counts, bin_index, inverse_density
from reference_impl.ops.numerics import widen

__all__ = ["authentic_smooth_l1", "ghm_r", "ghm_r_counts"]


@checked
def authentic_smooth_l1(pred: Float[Tensor, "*n"], target: Float[Tensor, "*n"], *, mu: float = 0.02) -> Float[Tensor, "*n"]:
    r"""Quadratic near zero and linear far off like smooth L1, but with a gradient that tells any two errors apart.

    $$ L = \sqrt{d^2 + \mu^2} - \mu, \qquad d = \hat x - x $$

    Smooth L1 has the same gradient norm, 1, for all large errors; here it is $\lvert d \rvert / \sqrt{d^2 + \mu^2} < 1$.

    Args:
        pred: $\hat x$, in the unit of the regression targets.
        target: $x$, the same.
        mu: $\mu > 0$, the error at which the loss turns from quadratic to linear.

    Returns:
        One loss for each element, >= 0.

    Raises:
        ValueError: the shapes differ, or `mu` is not positive.
    """
    require_positive("authentic_smooth_l1", mu=mu)
    d, root = _error(pred, target, mu)
    return d * (d / (root + mu))


@checked
def ghm_r(
    pred: Float[Tensor, "*batch n"],
    target: Float[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    counts: Num[Tensor, "*batch bins"] | None = None,
    *,
    mu: float = 0.02,
    bins: int = 10,
) -> Float[Tensor, "*batch n"]:
    r"""Regression in which every range of gradient norms has the same say, so that outliers do not drown the boxes that are nearly right.

    $$ L_i = \frac{N}{M R_{b(i)}} \left(\sqrt{d_i^2 + \mu^2} - \mu\right), \qquad g_i = \frac{\lvert d_i \rvert}{\sqrt{d_i^2 + \mu^2}} $$

    $R_b$ is the number of elements whose gradient norm $g$ falls into bin $b$ of $M$, each $1 / M$ long, empty ones included. The weight
    is piecewise constant, so that its derivative is zero. Each coordinate of a box is one of the $N$ elements: flatten boxes and
    coordinates into $n$. The paper divides the sum by $N$.

    Args:
        pred: $\hat x$, in the unit of the regression targets.
        target: $x$, the same.
        valid: the others have loss 0 and are not counted; by default all are valid.
        counts: $R$, by default of these elements; `world_sum(ghm_r_counts(...))`, or a moving average with these elements included. $N$ is
            its sum. An element whose bin is empty in it has loss 0.
        mu: $\mu > 0$, as in `authentic_smooth_l1`.
        bins: $M$, where `counts` does not say it.

    Returns:
        One loss for each element, >= 0.

    Raises:
        ValueError: the shapes of `pred`, `target` and `valid` differ, or `mu` is not positive.
    """
    require_positive("ghm_r", mu=mu)
    gradient, valid = _gradient_norm(pred, target, mu), _all_valid(pred, valid)
    counts = bin_counts(gradient, valid, bins=bins) if counts is None else counts
    count = counts.gather(-1, bin_index(gradient, bins=counts.shape[-1]))
    length = torch.full_like(gradient, 1 / counts.shape[-1])
    weight = torch.where(valid, inverse_density(count, counts.sum(-1, keepdim=True), length), 0)
    return weight * authentic_smooth_l1(pred, target, mu=mu)


@checked
def ghm_r_counts(
    pred: Float[Tensor, "*batch n"],
    target: Float[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    mu: float = 0.02,
    bins: int = 10,
) -> Int[Tensor, "*batch bins"]:
    r"""The counts that `ghm_r` makes by itself, to be summed over processes or averaged over iterations first.

    Args:
        pred: as for `ghm_r`.
        target: as for `ghm_r`.
        valid: as for `ghm_r`.
        mu: $\mu > 0$, as for `ghm_r`.
        bins: number of bins $M$.

    Returns:
        Valid elements in each bin of the gradient norm.

    Raises:
        ValueError: the shapes of `pred`, `target` and `valid` differ, or `mu` is not positive.
    """
    require_positive("ghm_r_counts", mu=mu)
    return bin_counts(_gradient_norm(pred, target, mu), _all_valid(pred, valid), bins=bins)


def _error(pred: Tensor, target: Tensor, mu: float) -> tuple[Tensor, Tensor]:
    """$d$, and $\\sqrt{d^2 + \\mu^2}$."""
    d = widen(pred) - widen(target)
    return d, torch.hypot(d, torch.full_like(d, mu))


def _gradient_norm(pred: Tensor, target: Tensor, mu: float) -> Tensor:
    d, root = _error(pred.detach(), target.detach(), mu)
    return d.abs() / root


def _all_valid(pred: Tensor, valid: Tensor | None) -> Tensor:
    return torch.ones_like(pred, dtype=torch.bool) if valid is None else valid
