"""Online hard example mining: Shrivastava, Gupta and Girshick, CVPR 2016."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.nms import nms
from reference_impl.ops.numerics import widen
from reference_impl.ops.select import take

__all__ = ["ohem"]


@checked
def ohem(
    loss: Float[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"],
    boxes: Float[Tensor, "*batch n 4"] | None = None,
    labels: Int[Tensor, "*batch n"] | None = None,
    *,
    size: int = 64,
    threshold: float = 0.7,
) -> Float[Tensor, "*batch n"]:
    r"""Trains on the boxes of an image with the highest loss, positive or negative, and of several that nearly coincide on one only.

    $$ w_i = \begin{cases} 1, & \text{if } L_i \text{ is among the } B \text{ highest of } \mathrm{NMS}(\mathrm{boxes}, L) \\
    0, & \text{otherwise} \end{cases} $$

    Boxes that nearly coincide have nearly the same loss, and would all be chosen, so non-maximum suppression with the loss as score goes
    first. The loss is that of classification plus that of regression, from a forward pass over all boxes. No share of positives is
    prescribed, and no lower bound for the IoU of negatives.

    Args:
        loss: loss of each box, >= 0, the sum over tasks.
        valid: the boxes to choose from, positive and negative ones.
        boxes: absolute `(x1, y1, x2, y2)`; without them nothing is suppressed.
        labels: class of each box, the background among them. Boxes of different labels do not suppress each other; without labels they do.
        size: number $B$ of boxes to choose.
        threshold: IoU $\theta$ above which the box with the lower loss is left out.

    Returns:
        1 for each chosen box and 0 for every other.
    """
    chosen = take(loss, valid, size) if boxes is None else nms(boxes, loss, valid, labels, limit=size, threshold=threshold)
    return chosen.to(widen(loss))
