"""Gaussian YOLOv3, its box loss and its score: Choi, Chun, Kim and Lee, ICCV 2019."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from reference_impl.ops.checked import checked, require_positive
from reference_impl.ops.numerics import widen

__all__ = ["gaussian_yolo_loss", "gaussian_yolo_score"]


@checked
def gaussian_yolo_loss(
    pred: Float[Tensor, "*n"], target: Float[Tensor, "*n"], deviation: Float[Tensor, "*n"], *, epsilon: float = 1e-9, offset: float = 0.3
) -> Float[Tensor, "*n"]:
    r"""Lets each box coordinate say how unsure it is: an unsure one has little gradient, and one that is hopelessly wrong has none.

    $$ L = -\frac12 \ln \left( \frac{1}{\sqrt{2\pi}\,(\sigma + c)}\, e^{-\frac{(\hat x - \tilde x)^2}{2\sigma^2}} + \epsilon \right) $$

    The likelihood of the target $\tilde x$ under a Gaussian around the prediction $\hat x$, but for the constant $c$ in its height, which
    keeps the network from claiming certainty for reward. Where the likelihood is far below $\epsilon$ the gradient vanishes. The authors
    multiply by $2 - w h$, of the ground truth's width and height as shares of the image, so that small boxes count more, and sum over the
    coordinates of the anchors responsible for an object.

    Args:
        pred: predicted value $\hat x$: the centre in its cell, in (0, 1), or the logarithm of the size over the anchor's.
        target: the value $\tilde x$ that it should have.
        deviation: $\sigma$ in (0, 1), the sigmoid of a further output. It counts as no less than the machine epsilon of its dtype.
        epsilon: $\epsilon > 0$.
        offset: $c \ge 0$; 0 is the likelihood of a Gaussian.

    Returns:
        One loss for each value. It may be negative, but not below $-\frac12 \ln(1 / (\sqrt{2\pi}\,c) + \epsilon)$.

    Raises:
        ValueError: the shapes differ, or `epsilon` is not positive.
    """
    require_positive("gaussian_yolo_loss", epsilon=epsilon)
    deviation = widen(deviation)
    deviation = deviation.clamp(min=torch.finfo(deviation.dtype).eps)
    standardised = (widen(pred) - widen(target)) / deviation
    # The logarithm of a likelihood h plus epsilon is that of epsilon plus softplus of the logarithm of h / epsilon.
    log_height = -(deviation + offset).log() - (math.log(2 * math.pi) / 2 + math.log(epsilon))
    above_epsilon = softplus(torch.addcmul(log_height, standardised, standardised, value=-0.5), threshold=40)
    return (above_epsilon + math.log(epsilon)) / -2


@checked
def gaussian_yolo_score(
    objectness: Float[Tensor, "*batch n"], class_score: Float[Tensor, "*batch n c"], deviation: Float[Tensor, "*batch n 4"]
) -> Float[Tensor, "*batch n c"]:
    r"""Ranks a detection down if its box is unsure, so that NMS and the score threshold drop badly placed boxes.

    $$ s_c = p_{obj}\, p_c\, (1 - \bar\sigma), \qquad \bar\sigma = \frac{\sigma_x + \sigma_y + \sigma_w + \sigma_h}{4} $$

    Args:
        objectness: $p_{obj}$, in [0, 1].
        class_score: $p_c$ of each class, in [0, 1].
        deviation: $\sigma$ of the four coordinates, in [0, 1].

    Returns:
        One score for each box and class, in [0, 1].

    Raises:
        ValueError: the shapes do not fit together.
    """
    return (widen(objectness) * (1 - widen(deviation).mean(-1)))[..., None] * widen(class_score)
