"""Bounded IoU loss: Tychsen-Smith and Petersson, CVPR 2018."""

import torch
from jaxtyping import Float
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import nonnegative, safe_divide, widen

__all__ = ["bounded_iou_loss"]


@checked
def bounded_iou_loss(pred: Float[Tensor, "*batch 4"], target: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    r"""Scores centre, width and height each by an IoU in which only that one is wrong, relative to the size of the target.

    $$ L_{BIOU} = 2\,L1_\text{smooth}(1 - \mathrm{IoU}_B) = (1 - \mathrm{IoU}_B)^2 $$

    $$ \mathrm{IoU}_B(c_x, \bar c_x) = \max\left(0, \frac{w - 2|\bar c_x - c_x|}{w + 2|\bar c_x - c_x|}\right), \qquad
    \mathrm{IoU}_B(w, \bar w) = \min\left(\frac{\bar w}{w}, \frac{w}{\bar w}\right) $$

    Survey, Eqs. 15, 16 and 17, for the centre $c_x$ and the width $w$ of the target, $\bar c_x$ and $\bar w$ of the prediction; $c_y$ and
    $h$ likewise. $1 - \mathrm{IoU}_B$ is never above 1, and up to there smooth L1 is half a square:
    hence the right side of the first line. The author's code sums the four and averages over the images of a batch.

    Args:
        pred: predicted boxes $\bar B$, absolute `(x1, y1, x2, y2)` in pixels.
        target: ground-truth boxes $B$, the same.

    Returns:
        Four losses for each pair, of $c_x, c_y, w, h$ in this order, each in [0, 1]. A target without width has loss 1 for $c_x$ and $w$,
        one without height for $c_y$ and $h$. A centre more than half the target's width away has loss 1 and gradient 0.

    Raises:
        ValueError: the shapes differ, or the last dimension is not 4.
    """
    (pred_lower, pred_upper), (lower, upper) = torch.split(widen(pred), 2, -1), torch.split(widen(target), 2, -1)
    size, pred_size = nonnegative(upper - lower), pred_upper - pred_lower
    # Twice the distance of the centres.
    gap = (pred_lower + pred_upper - (lower + upper)).abs()
    position = safe_divide(size - gap, size + gap)
    extent = safe_divide(torch.minimum(size, pred_size), torch.maximum(size, pred_size))
    return torch.cat([nonnegative(iou).sub(1).square() for iou in (position, extent)], -1)
