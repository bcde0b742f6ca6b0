"""Huber loss: Huber, Annals of Mathematical Statistics 1964."""

import torch
from jaxtyping import Float
from torch import Tensor

from reference_impl.ops.checked import checked, require_positive
from reference_impl.ops.numerics import widen

__all__ = ["huber_loss"]


@checked
def huber_loss(pred: Float[Tensor, "*n"], target: Float[Tensor, "*n"], *, delta: float = 1.0) -> Float[Tensor, "*n"]:
    r"""Squared error for inliers, absolute error for outliers: an error pulls with its own size, but never with more than the threshold.

    $$ H_\delta(\hat x) =
    \begin{cases} \hat x^2 / 2, & |\hat x| < \delta \\ \delta (|\hat x| - \delta / 2), & \text{otherwise} \end{cases} $$

    $\hat x$ is the difference of prediction and target. Smooth L1 with threshold $\delta$ is this divided by $\delta$: the same only at 1.
    For $\delta \to \infty$ this becomes half of the L2 loss; for $\delta \to 0$ it vanishes, while this divided by $\delta$ becomes L1.

    Args:
        pred: predicted values of any meaning.
        target: the values that they should have.
        delta: threshold $\delta > 0$, in the unit of the values; also the largest slope.

    Returns:
        One loss for each value, >= 0.

    Raises:
        ValueError: the shapes differ, or `delta` is not positive.
    """
    require_positive("huber_loss", delta=delta)
    error = (widen(pred) - widen(target)).abs()
    inner = error.clamp(max=delta)
    return inner * torch.sub(error, inner, alpha=0.5)
