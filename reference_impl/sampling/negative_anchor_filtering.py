"""Negative anchor filtering: Zhang, Wen, Bian, Lei and Li, CVPR 2018 (RefineDet)."""

from jaxtyping import Bool, Float
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen
from reference_impl.ops.select import take

__all__ = ["negative_anchor_filtering"]


@checked
def negative_anchor_filtering(
    p_s: Float[Tensor, "*batch n"],
    loss: Float[Tensor, "*batch n"],
    positive: Bool[Tensor, "*batch n"],
    negative: Bool[Tensor, "*batch n"],
    *,
    threshold: float = 0.99,
    ratio: float = 3,
) -> Float[Tensor, "*batch n"]:
    r"""Never shows the detector the negatives that a first, binary classifier is sure of, and mines the hard ones among the rest.

    $$ \mathcal{N}' = \text{the } \lfloor r |\mathcal{P}| \rfloor \text{ negatives of highest loss with } p_s \le \theta $$

    Two classifiers speak here: $p_s$ comes from the module that refines the anchors, the loss from the one that detects. Positives all
    stay, however the first classifier judges them. An image without positives has no negatives either. In inference the same threshold
    leaves out boxes that the first classifier holds to be background.

    Args:
        p_s: probability of the true class by the first classifier, in [0, 1], for negatives their background confidence; that of positives
            is not used.
        loss: classification loss of each box by the detector, >= 0; that of positives is not used.
        positive: the boxes with an object.
        negative: the boxes without.
        threshold: background confidence $\theta$ above which a negative is discarded.
        ratio: number $r$ of negatives for each positive; with fewer left, all are taken.

    Returns:
        1 for each positive and each chosen negative, 0 for every other box.
    """
    unsure = negative & (widen(p_s) <= threshold)
    hardest = take(loss, unsure, positive.sum(-1, keepdim=True) * ratio)
    return hardest.logical_or_(positive).to(widen(loss))
