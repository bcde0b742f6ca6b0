"""IoU lower bound for negatives: Girshick, ICCV 2015 (Fast R-CNN)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen
from reference_impl.ops.select import take

__all__ = ["iou_lower_bound"]


@checked
def iou_lower_bound(
    iou: Float[Tensor, "*batch n"],
    negative: Bool[Tensor, "*batch n"],
    noise: Float[Tensor, "*batch n"] | None = None,
    *,
    num_negatives: int = 48,
    lower: float = 0.1,
    upper: float = 0.5,
) -> Float[Tensor, "*batch n"]:
    r"""Draws negatives at random from those that overlap an object a little, and never trains on plain background.

    $$ \mathcal{N} = \{i : \mathrm{lower} \le \mathrm{IoU}_i < \mathrm{upper}\} $$

    $w_i = 1$ for $N$ boxes of $\mathcal{N}$, drawn uniformly. In the author's code an image has 64 boxes, up to a quarter of them positive.

    Args:
        iou: highest IoU of each box with a ground truth, in [0, 1].
        negative: the boxes to draw from.
        noise: uniform in [0, 1), the highest are drawn; a fresh draw by default.
        num_negatives: number $N$ of boxes to draw; with fewer candidates, all are taken.
        lower: IoU from which on a negative may be drawn.
        upper: IoU from which on a box is no negative.

    Returns:
        1 for each drawn negative and 0 for every other box. Positives are left to another method.
    """
    iou = widen(iou.detach())
    noise = torch.rand_like(iou) if noise is None else noise
    return take(noise, negative & (iou >= lower) & (iou < upper), num_negatives).to(iou)
