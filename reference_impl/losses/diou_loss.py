"""DIoU loss and DIoU-NMS: Zheng, Wang, Liu, Li, Ye and Ren, AAAI 2020."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from reference_impl.ops.boxes import box_diou
from reference_impl.ops.checked import checked
from reference_impl.ops.nms import nms

__all__ = ["diou_loss", "diou_nms"]


@checked
def diou_loss(pred: Float[Tensor, "*batch 4"], target: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch"]:
    r"""Pulls the centre of a box straight onto that of its target, also where the two do not overlap or one lies inside the other.

    $$ L = 1 - \mathrm{IoU}(B, \bar B) + \frac{d^2(B_C, \bar B_C)}{E_D^2} $$

    $d$ is the distance of the centres, $E_D$ the diagonal of the smallest box that contains both. Survey, Eq. 19.

    Args:
        pred: predicted boxes $\bar B$, absolute `(x1, y1, x2, y2)` in pixels.
        target: ground-truth boxes $B$, the same.

    Returns:
        One loss for each pair, in [0, 2]. Two boxes without area have loss 1 plus the distance term.

    Raises:
        ValueError: the shapes differ, or the last dimension is not 4.
    """
    return 1 - box_diou(pred, target)


@checked
def diou_nms(
    boxes: Float[Tensor, "*batch n 4"],
    scores: Float[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    group: Int[Tensor, "*batch n"] | None = None,
    *,
    limit: int = 100,
    threshold: float = 0.5,
) -> Bool[Tensor, "*batch n"]:
    r"""Non-maximum suppression that spares boxes whose centres are apart, as they may well be two objects.

    $$ s_i = 0 \quad \text{where} \quad \mathrm{IoU}(M, B_i) - \frac{d^2(M_C, B_{i,C})}{E_D^2} > \varepsilon $$

    for the box $M$ with the highest score of those left, then the next.

    Args:
        boxes: $B_i$, detections, absolute `(x1, y1, x2, y2)` in pixels.
        scores: $s_i$, which box goes first; the earlier box wins a tie.
        valid: the boxes that take part; by default all.
        group: class of each box; boxes of different classes do not suppress each other. By default all are of one.
        limit: number of boxes to keep at most.
        threshold: $\varepsilon$, in [-1, 1]; as DIoU is never above IoU, the same threshold keeps more boxes.

    Returns:
        Whether each box is kept.

    Raises:
        ValueError: the shapes do not fit.
    """
    return nms(boxes, scores, valid, group, limit=limit, threshold=threshold, similarity=box_diou)
