"""CIoU loss: Zheng, Wang, Liu, Li, Ye and Ren, AAAI 2020."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from reference_impl.ops.boxes import box_diou, box_iou
from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import nonnegative, safe_divide, widen

__all__ = ["aspect_difference", "ciou_loss"]


@checked
def aspect_difference(pred: Float[Tensor, "*batch 4"], target: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch"]:
    r"""How far apart the shapes of two boxes are, whatever their sizes: 0 for the same aspect ratio, 1 for a line lying and one standing.

    $$ v = \frac{4}{\pi^2} \left(\arctan\frac{w}{h} - \arctan\frac{\bar w}{\bar h}\right)^2 $$

    Survey, Eq. 21. With another $\alpha$ the loss is `diou_loss(pred, target) + alpha * aspect_difference(pred, target)`.

    Args:
        pred: predicted boxes $\bar B$, absolute `(x1, y1, x2, y2)` in pixels.
        target: ground-truth boxes $B$, the same.

    Returns:
        One $v$ for each pair, in [0, 1]; 0 where one of the boxes is a point.

    Raises:
        ValueError: the shapes differ, or the last dimension is not 4.
    """
    w, h = _size(target)
    pred_w, pred_h = _size(pred)
    # The difference of the two angles, with one arc tangent in place of two.
    angle = torch.atan2(w * pred_h - pred_w * h, h * pred_h + w * pred_w)
    return 4 / math.pi**2 * angle.square()


@checked
def ciou_loss(pred: Float[Tensor, "*batch 4"], target: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch"]:
    r"""Pulls a box's centre onto its target's and gives it the target's aspect ratio, the more so the more they overlap already.

    $$ L = 1 - \mathrm{IoU}(B, \bar B) + \frac{d^2(B_C, \bar B_C)}{E_D^2} + \alpha v, \qquad
    \alpha = \frac{v}{(1 - \mathrm{IoU}(B, \bar B)) + v} $$

    with $v$ of `aspect_difference`, $d$ and $E_D$ of `diou_loss`. Survey, Eqs. 20, 21 and 22. $\alpha$ is a weight and carries no gradient,
    as in the authors' code.

    Args:
        pred: predicted boxes $\bar B$, absolute `(x1, y1, x2, y2)` in pixels.
        target: ground-truth boxes $B$, the same.

    Returns:
        One loss for each pair, in [0, 3].

    Raises:
        ValueError: the shapes differ, or the last dimension is not 4.
    """
    v = aspect_difference(pred, target)
    fixed = v.detach()
    alpha = safe_divide(fixed, 1 - box_iou(pred.detach(), target.detach()) + fixed)
    return 1 - box_diou(pred, target) + alpha * v


def _size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    x1, y1, x2, y2 = widen(boxes).unbind(-1)
    return nonnegative(x2 - x1), nonnegative(y2 - y1)
