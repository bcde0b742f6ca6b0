"""IoU-uniform R-CNN, its generation of boxes: Zhu, Xie, Liu, Tao and Tao, 2019."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from reference_impl.ops.boxes import box_around, box_center, box_size, clip_boxes
from reference_impl.ops.checked import checked
from reference_impl.ops.matching import best_overlaps
from reference_impl.ops.numerics import widen
from reference_impl.ops.ranks import rank_within_groups

__all__ = ["iou_uniform"]

# Lowest and highest IoU of an interval; how far a centre is moved, in sizes of the box; smallest and largest factor of a side.
RANGES = (
    (0.5, 0.6, 0.75, 0.5, 2.0),
    (0.6, 0.7, 0.5, 0.6, 1.6),
    (0.7, 0.8, 0.3, 0.7, 1.4),
    (0.8, 1.0, 0.125, 0.8, 1.25),
)
QUOTA = 16


@checked
def iou_uniform(
    boxes: Float[Tensor, "*batch m 4"],
    truth: Int[Tensor, "*batch n"],
    interval: Int[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch m"] | None = None,
    ranges: Float[Tensor, "bins 5"] | None = None,
    image_size: Float[Tensor, "*batch 2"] | None = None,
    quota: Int[Tensor, "bins"] | None = None,
    noise: Float[Tensor, "*batch n 4"] | None = None,
) -> tuple[Float[Tensor, "*batch n 4"], Float[Tensor, "*batch n"], Bool[Tensor, "*batch n"]]:
    r"""Gives the regressor as many boxes of high IoU as of low: jitters the ground truths and keeps the same number for each interval.

    $$ c' = c + (2 u - 1)\, o_k\, s, \qquad s' = (a_k + u'\,(b_k - a_k))\, s, \qquad l_k < \mathrm{IoU} \le h_k $$

    Centre $c$ and size $s$ of a ground truth are changed at random, within a range that is narrower the higher the IoU interval $k$ is: the
    centre moves by up to $o_k$ sizes, a side is multiplied by $a_k$ to $b_k$, and the interval is from $l_k$ to $h_k$. A box is accepted if
    its IoU lies in the interval and no other ground truth overlaps it more; the first accepted ones stay. The authors try 500 boxes for
    each ground truth and interval. The chosen ones train the regressor and the branch that predicts the IoU; the classifier is still
    trained with the proposals. No gradient passes through.

    Args:
        boxes: ground truths, absolute `(x1, y1, x2, y2)` in pixels.
        truth: index of the ground truth that each new box is made from.
        interval: index of the IoU interval that it is meant for.
        valid: the ground truths to use; all by default.
        ranges: for each interval $l_k$, $h_k$, $o_k$, $a_k$, $b_k$; by default the authors' for 0.5 to 0.6, 0.7, 0.8 and 1.
        image_size: width and height in pixels; the boxes are cut off there, or not at all if it is not given.
        quota: how many boxes of a ground truth stay in each interval; 16 by default.
        noise: $u$ for x and y, $u'$ for width and height, uniform in [0, 1); a fresh draw by default.

    Returns:
        The boxes, their IoU with their ground truth, and which of them are chosen; the others have neither area nor IoU. Coordinates may
        be negative.

    Raises:
        ValueError: the shapes do not fit together.
    """
    boxes = widen(boxes.detach())
    noise = (boxes.new_empty(*truth.shape, 4).uniform_() if noise is None else noise).to(boxes.dtype)
    table = torch.tensor(RANGES, dtype=boxes.dtype, device=boxes.device) if ranges is None else ranges.to(boxes.dtype)
    lowest, highest, offset, smallest, largest = table[interval.clamp(0, len(table) - 1)].unbind(-1)

    source = pad(boxes, (0, 0, 0, 1)).gather(-2, truth.clamp(0, boxes.shape[-2])[..., None].expand(*truth.shape, 4))
    size = box_size(source)
    center = box_center(source) + (2 * noise[..., :2] - 1) * offset[..., None] * size
    drawn = box_around(center, torch.lerp(smallest[..., None], largest[..., None], noise[..., 2:]) * size)
    if image_size is not None:
        drawn = clip_boxes(drawn, image_size[..., None, :])

    best = best_overlaps(drawn, boxes, valid)
    accepted = (best.truth == truth) & (best.iou > lowest) & (best.iou <= highest)
    order = torch.arange(truth.shape[-1], device=truth.device).expand_as(truth)
    place = rank_within_groups(order, torch.where(accepted, truth * len(table) + interval, -1))
    limit = QUOTA if quota is None else quota[interval.clamp(0, len(quota) - 1)]
    chosen = accepted & (place < limit)
    return drawn.where(chosen[..., None], 0), best.iou.where(chosen, 0), chosen
