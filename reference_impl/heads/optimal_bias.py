"""Optimal bias initialisation: Chen, Liu, Xu, Zhang, Wu, Luo, Peng and Chen, arXiv 2019 (sampling-free mechanism)."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.matching import BACKGROUND, match
from reference_impl.ops.numerics import safe_log, widen

__all__ = ["anchor_counts", "optimal_bias"]


@checked
def anchor_counts(
    anchors: Float[Tensor, "*batch n 4"],
    boxes: Float[Tensor, "*batch m 4"],
    valid: Bool[Tensor, "*batch m"] | None = None,
    *,
    positive: float = 0.5,
    negative: float = 0.4,
) -> tuple[Int[Tensor, "*batch"], Int[Tensor, "*batch"]]:
    r"""Counts what the classifier will meet: how many anchors of an image stand for an object, and how many for background.

    Added up over one pass over the training set, these are $N_{fg}$ and $N_{bg}$ of `optimal_bias`; `ops.world.world_sum` adds up those of
    several processes. Anchors whose IoU lies between the thresholds are counted nowhere. The defaults are those of RetinaNet.

    Args:
        anchors: absolute `(x1, y1, x2, y2)` in pixels.
        boxes: ground truths, the same.
        valid: the ground truths that are no padding; by default all.
        positive: $t_{fg}$, an anchor with this IoU or more stands for an object; so does the best anchor of each ground truth, or all that
            are equally good.
        negative: $t_{bg}$, an anchor with less IoU is background.

    Returns:
        The two numbers of each image.

    Raises:
        ValueError: the shapes do not fit, or `negative` is not in (0, `positive`].
    """
    label = match(anchors, boxes, valid, positive=positive, negative=negative)
    return (label >= 0).sum(-1), (label == BACKGROUND).sum(-1)


@checked
def optimal_bias(
    bias: Float[Tensor, "*batch c"], positives: Int[Tensor, "*batch"], negatives: Int[Tensor, "*batch"]
) -> Float[Tensor, "*batch c"]:
    r"""Starts a classifier at the share of foreground that the data have, so that no first steps are spent on learning that share.

    $$ b = -\ln \frac{1 - \pi}{\pi}, \qquad \pi = \frac{1}{C} \cdot \frac{N_{fg}}{N_{fg} + N_{bg}} $$

    With weights near 0, this is the bias at which the sum of sigmoid cross entropy over all anchors and classes is smallest. The authors
    count once over the training set, with the anchors and the matching of the detector; what the matching ignores is not counted.

    Args:
        bias: that of the last layer, one number $b$ for each of the $C$ classes of an anchor; only its shape and dtype count.
        positives: number $N_{fg}$ of anchors that stand for an object, as `anchor_counts` finds them in an image.
        negatives: number $N_{bg}$ of anchors that are background.

    Returns:
        The bias to start with, the same for each class. It is negative unless there is one class and background is the minority; 0 where
        nothing was counted, and far below 0, but finite, where there was no foreground.
    """
    bias = widen(bias.detach())
    foreground = positives[..., None].to(bias.dtype).expand_as(bias)
    background = (bias.shape[-1] - 1) * foreground + bias.shape[-1] * negatives[..., None]
    return safe_log(foreground) - safe_log(background)
