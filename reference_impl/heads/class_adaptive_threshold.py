"""Class-adaptive threshold: Chen, Liu, Xu, Zhang, Wu, Luo, Peng and Chen, arXiv 2019 (sampling-free mechanism)."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen

__all__ = ["class_adaptive_threshold"]


@checked
def class_adaptive_threshold(
    p: Float[Tensor, "*batch n c"], counts: Int[Tensor, "*batch c"], positives: Int[Tensor, "*batch"], negatives: Int[Tensor, "*batch"]
) -> Bool[Tensor, "*batch n c"]:
    r"""Keeps a score that exceeds the share of training anchors of its class, so that a rare class may score lower than a frequent one.

    $$ p_c > \tau_c, \qquad \tau_c = \frac{N_{fg}}{N_{fg} + N_{bg}} \cdot \frac{n_c}{\sum_k n_k} $$

    A detector that is trained on all anchors is calibrated to them, so its scores are far lower than those of one that is trained on a
    sample, and a threshold like 0.05 would drop nearly all. $\tau_c$ is the share of anchors that stand for class $c$: what the classifier
    says before it has seen anything. What is kept goes on to non-maximum suppression.

    Args:
        p: $p_c$, probability of each class for each anchor, in [0, 1].
        counts: training instances $n_c$ of each class, as `measure.boxes_per_class` counts those of an image.
        positives: number $N_{fg}$ of anchors of the training set that stand for an object, as for `optimal_bias`; `anchor_counts` beside it
            counts those of an image.
        negatives: number $N_{bg}$ of anchors that are background.

    Returns:
        Whether each score is kept; where nothing was counted, whether it is above 0.
    """
    counts = counts.double()
    foreground = positives[..., None].double()
    drawn = (foreground + negatives[..., None]).clamp(min=1) * counts.sum(-1, keepdim=True).clamp(min=1)
    return widen(p) > (foreground * counts / drawn).to(widen(p).dtype)[..., None, :]
