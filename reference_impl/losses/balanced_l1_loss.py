"""Balanced L1 loss: Pang, Chen, Shi, Feng, Ouyang and Lin, CVPR 2019."""

import math

from jaxtyping import Float
from torch import Tensor

from reference_impl.ops.checked import checked, require_positive
from reference_impl.ops.numerics import widen

__all__ = ["balanced_l1_loss"]


@checked
def balanced_l1_loss(
    pred: Float[Tensor, "*n"], target: Float[Tensor, "*n"], *, alpha: float = 0.5, gamma: float = 1.5
) -> Float[Tensor, "*n"]:
    r"""Smooth L1 with the gradient of the inliers lifted by a logarithm, and that of the outliers still constant.

    $$ \frac{\partial L1_\text{balanced}}{\partial |\hat x|} =
    \begin{cases} \alpha \ln(b|\hat x| + 1), & |\hat x| < 1 \\ \gamma, & \text{otherwise} \end{cases} $$

    $$ L1_\text{balanced}(\hat x) = \begin{cases} \frac{\alpha}{b}(b|\hat x| + 1)\ln(b|\hat x| + 1) - \alpha|\hat x|, & |\hat x| < 1 \\
    \gamma|\hat x| + Z, & \text{otherwise} \end{cases} $$

    Survey, Eqs. 10 and 11. $b = e^{\gamma/\alpha} - 1$ (Eq. 12) makes the gradient continuous at 1, $Z = \gamma / b - \alpha$ the loss. The
    lines below go the way of the integral: an error up to 1 by the first piece, what exceeds 1 by $\gamma$ times its length.

    Args:
        pred: predicted values of any meaning, as a rule the deltas of boxes.
        target: the values that they should have.
        alpha: $\alpha > 0$; the smaller, the more gradient an inlier has.
        gamma: gradient $\gamma > 0$ of an outlier, the largest there is.

    Returns:
        One loss for each value, >= 0.

    Raises:
        ValueError: the shapes differ, or `alpha` or `gamma` is not positive.
    """
    require_positive("balanced_l1_loss", alpha=alpha, gamma=gamma)
    b = math.exp(gamma / alpha) - 1
    error = (widen(pred) - widen(target)).abs()
    inner = error.clamp(max=1)
    return alpha * ((inner + 1 / b) * (b * inner).log1p() - inner) + gamma * (error - inner)
