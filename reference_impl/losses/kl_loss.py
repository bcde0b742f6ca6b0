"""KL loss and variance voting: He, Zhu, Wang, Savvides and Zhang, CVPR 2019."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reference_impl.ops.boxes import box_iou
from reference_impl.ops.checked import checked, require_positive
from reference_impl.ops.numerics import widen

__all__ = ["kl_loss", "variance_voting"]


@checked
def kl_loss(pred: Float[Tensor, "*n"], target: Float[Tensor, "*n"], log_variance: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    r"""Lets a regressor say how unsure it is of each coordinate: a large variance buys a small gradient, and has its price.

    $$ L_{KL}(\hat x, \sigma) = \frac{\hat x^2}{2\sigma^2} + \frac12 \ln \sigma^2 $$

    Survey, Eq. 13: up to a constant the divergence of a Gaussian around the prediction from a Dirac delta at the target. The network gives
    $\alpha = \ln \sigma^2$, and an error beyond 1 counts as in smooth L1:

    $$ L = e^{-\alpha} L1_\text{smooth}(\hat x) + \frac{\alpha}{2} $$

    The authors average over the sampled boxes as for smooth L1, and start with $\alpha$ near 0.

    Args:
        pred: predicted values of any meaning, as a rule offsets of a box's four borders.
        target: the values that they should have.
        log_variance: $\alpha$, any real. $e^{-\alpha}$ stops at the root of the dtype's largest number ($\alpha = -44$ in float32).

    Returns:
        One loss for each value. It is negative where the error is small and so is the variance; the smallest value for a given error is at
        $\sigma^2 = 2\,L1_\text{smooth}(\hat x)$.

    Raises:
        ValueError: the shapes differ.
    """
    log_variance = widen(log_variance)
    error = (widen(pred) - widen(target)).abs()
    inner = error.clamp(max=1)
    precision = (-log_variance).clamp(max=math.log(torch.finfo(log_variance.dtype).max) / 2).exp()
    smooth_l1 = inner * torch.sub(error, inner, alpha=0.5)
    return torch.add(precision * smooth_l1, log_variance, alpha=0.5)


@checked
def variance_voting(
    boxes: Float[Tensor, "*batch k 4"],
    pred: Float[Tensor, "*batch n 4"],
    log_variance: Float[Tensor, "*batch n 4"],
    among: Bool[Tensor, "*batch k n"] | None = None,
    *,
    sigma_t: float = 0.01,
) -> Float[Tensor, "*batch k 4"]:
    r"""Moves each box that NMS keeps to the mean of all predictions around it; the sure ones and the near ones count most.

    $$ x = \frac{\sum_i p_i x_i / \sigma_{x,i}^2}{\sum_i p_i / \sigma_{x,i}^2}, \qquad p_i = e^{-(1 - \mathrm{IoU}(b_i, b))^2 / \sigma_t} $$

    The sums run over the predictions $b_i$ with $\mathrm{IoU}(b_i, b) > 0$, for each of the four coordinates $x$ on its own. Scores play no
    part. All $k n$ pairs are held in memory; pass one class of an image at a time.

    Args:
        boxes: the kept boxes $b$, absolute `(x1, y1, x2, y2)` in pixels.
        pred: the predictions $b_i$ from before NMS, the kept ones among them, the same.
        log_variance: $\ln \sigma_{x,i}^2$ of their four coordinates, in the order of the coordinates.
        among: which predictions may vote for which box; all by default. In the authors' code a box that was kept earlier has no vote.
        sigma_t: $\sigma_t > 0$; the larger, the more the distant predictions count.

    Returns:
        The new boxes. One that no prediction overlaps stays as it is.

    Raises:
        ValueError: the shapes do not fit together, or `sigma_t` is not positive.
    """
    require_positive("variance_voting", sigma_t=sigma_t)
    boxes, pred, log_variance = widen(boxes), widen(pred), widen(log_variance)
    iou = box_iou(boxes[..., :, None, :], pred[..., None, :, :])
    votes = iou > 0 if among is None else (iou > 0) & among
    log_weight = (-((1 - iou).square()) / sigma_t)[..., None] - log_variance[..., None, :, :]
    lowest = torch.finfo(log_weight.dtype).min
    weight = log_weight.masked_fill(~votes[..., None], lowest).softmax(-2)
    mean = (weight * pred[..., None, :, :]).sum(-2)
    return torch.where(votes.any(-1)[..., None], mean, boxes)
