"""Smooth L1 loss: Girshick, ICCV 2015."""

import torch
from jaxtyping import Float
from torch import Tensor

from reference_impl.ops.checked import checked, require_positive
from reference_impl.ops.numerics import widen

__all__ = ["smooth_l1_loss"]


@checked
def smooth_l1_loss(pred: Float[Tensor, "*n"], target: Float[Tensor, "*n"], *, beta: float = 1.0) -> Float[Tensor, "*n"]:
    r"""L2 for small errors, L1 for large ones: the pull of an outlier is bounded by 1, that of an inlier fades as it gets right.

    $$ L1_\text{smooth}(\hat x) =
    \begin{cases} \hat x^2 / (2\beta), & |\hat x| < \beta \\ |\hat x| - \beta / 2, & \text{otherwise} \end{cases} $$

    $\hat x$ is the difference of prediction and target. Survey, Eq. 9, is $\beta = 1$. The Huber loss with threshold $\beta$ is $\beta$
    times this: the same only at 1. For $\beta \to 0$ this becomes the L1 loss; for $\beta \to \infty$ it vanishes, while $2\beta$ times it
    becomes the L2 loss. The lines below have both pieces in one: $m\,(|\hat x| - m / 2) / \beta$ with $m = \min(|\hat x|, \beta)$. Fast
    R-CNN sums the four deltas of a foreground box and averages over all sampled boxes, background included.

    Args:
        pred: predicted values of any meaning, as a rule the deltas of boxes.
        target: the values that they should have.
        beta: error $\beta > 0$ at which the two pieces meet, with equal value and slope.

    Returns:
        One loss for each value, >= 0.

    Raises:
        ValueError: the shapes differ, or `beta` is not positive.
    """
    require_positive("smooth_l1_loss", beta=beta)
    error = (widen(pred) - widen(target)).abs()
    inner = error.clamp(max=beta)
    return inner / beta * torch.sub(error, inner, alpha=0.5)
