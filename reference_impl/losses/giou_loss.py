"""GIoU loss: Rezatofighi, Tsoi, Gwak, Sadeghian, Reid and Savarese, CVPR 2019."""

from jaxtyping import Float
from torch import Tensor

from reference_impl.ops.boxes import box_giou
from reference_impl.ops.checked import checked

__all__ = ["giou_loss"]


@checked
def giou_loss(pred: Float[Tensor, "*batch 4"], target: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch"]:
    r"""Pulls a box towards its target even where the two do not overlap, by shrinking the box that encloses both.

    $$ L = 1 - \mathrm{GIoU}(B, \bar B), \qquad
    \mathrm{GIoU}(B, \bar B) = \mathrm{IoU}(B, \bar B) - \frac{A(E) - A(B \cup \bar B)}{A(E)} $$

    $E$ is the smallest box that contains both. Survey, Eq. 18, which prints GIoU where the loss is $1 - \mathrm{GIoU}$. The authors' R-CNN
    code sums over the positive boxes and divides by the number of all sampled ones, as it does for smooth L1.

    Args:
        pred: predicted boxes $\bar B$, absolute `(x1, y1, x2, y2)` in pixels.
        target: ground-truth boxes $B$, the same.

    Returns:
        One loss for each pair, in [0, 2]. Two boxes without area have loss 1.

    Raises:
        ValueError: the shapes differ, or the last dimension is not 4.
    """
    return 1 - box_giou(pred, target)
