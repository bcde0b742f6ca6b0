"""IoU loss: Yu, Jiang, Wang, Cao and Huang, ACM MM 2016 (UnitBox)."""

from jaxtyping import Float
from torch import Tensor

from reference_impl.ops.boxes import box_iou
from reference_impl.ops.checked import checked

__all__ = ["iou_loss"]


@checked
def iou_loss(pred: Float[Tensor, "*batch 4"], target: Float[Tensor, "*batch 4"], *, min_iou: float = 1e-6) -> Float[Tensor, "*batch"]:
    r"""Regresses the four sides of a box together, by the overlap that they give, so that large and small objects count alike.

    $$ L = -\ln \max(\mathrm{IoU}(B, \bar B), \mathrm{IoU}_{\min}) $$

    Survey, Eq. 14, which has no bound. Where the boxes overlap by less than that, the loss has no gradient.

    Args:
        pred: predicted boxes $\bar B$, absolute `(x1, y1, x2, y2)` in pixels.
        target: ground-truth boxes $B$, the same.
        min_iou: $\mathrm{IoU}_{\min}$ in (0, 1], as which a smaller IoU counts.

    Returns:
        One loss for each pair, in [0, -ln `min_iou`].

    Raises:
        ValueError: the shapes differ, or the last dimension is not 4.
    """
    return -box_iou(pred, target).clamp(min=min_iou).log()
