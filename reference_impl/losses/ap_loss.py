"""AP loss: Chen, Li, Lin, See, Wang, Duan, Chen, He and Zou, CVPR 2019."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reference_impl.ops.checked import checked, require_positive
from reference_impl.ops.gradient import with_gradient
from reference_impl.ops.numerics import widen
from reference_impl.ops.opaque import opaque
from reference_impl.ops.soft_ranks import Ramps, Ranking, empty_update

__all__ = ["ap_loss"]


@checked
def ap_loss(
    logits: Float[Tensor, "*batch n c"],
    labels: Int[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    delta: float = 1.0,
) -> Float[Tensor, "*batch"]:
    r"""One minus the average precision of all scores in one ranking, where background costs only as far as it outranks objects.

    $$ L_{AP} = \frac{1}{|\mathcal{P}|} \sum_{i \in \mathcal{P}} \sum_{j \in \mathcal{N}} U_{ij}, \qquad
    U_{ij} = \frac{H(x_{ij})}{1 + \sum_{k \ne i} H(x_{ik})}, \qquad x_{ij} = s_j - s_i, \qquad
    H(x) = \min\left(\max\left(\frac{x}{2\delta} + \frac{1}{2}, 0\right), 1\right) $$

    Survey, Eqs. 7 and 8, where $H(x)$ is 1 for $x > 0$ and else 0. $\mathcal{P}$ are the scores of boxes for their own class, $\mathcal{N}$
    all other scores, $k$ runs over both. $\sum_j U_{ij}$ is one minus the precision at $s_i$. As in interpolated AP, where a positive with
    no higher score has a better precision, that is taken instead, and $U_{ij}$ is scaled down to it.

    The gradient is not the derivative, but an update driven by the error: each $U_{ij} / |\mathcal{P}|$ goes to $s_j$, and with a minus
    sign to $s_i$. The paper ranks the scores of a mini-batch together; flatten its images into $n$ for that.

    Args:
        logits: $s$, one for each of $C$ foreground classes.
        labels: 0 to $C - 1$, or $C$ for background, for which every class is a negative.
        valid: the scores of the other boxes are not ranked; by default all are valid.
        delta: $\delta > 0$, half the length of the ramp from 0 to 1, in the unit of the logits.

    Returns:
        One loss for each ranking, in [0, 1]; 0 without positives.

    Raises:
        ValueError: the shapes of `labels` or `valid` are not that of `logits` without its last dimension, or `delta` is not positive.
    """
    require_positive("ap_loss", delta=delta)
    value, gradient = _update(logits.detach(), labels, valid, delta)
    return with_gradient(value, widen(logits).flatten(-2), gradient)


@opaque(empty_update)
def _update(logits: Tensor, labels: Tensor, valid: Tensor | None, delta: float) -> tuple[Tensor, Tensor]:
    ranking = Ranking(logits, labels, valid, delta=delta)
    false_positives = ranking.negatives.times()
    # The ramp gives each positive half of itself, its rank all of it.
    rank = Ramps(ranking.depth, ranking.depth).times() + 0.5 + false_positives
    error = torch.where(ranking.positive, false_positives / rank, 1).flip(-1).cummin(-1).values.flip(-1) * ranking.share
    pushed_down = ranking.negatives.transposed_times(error / false_positives.clamp(min=torch.finfo(error.dtype).tiny))
    return ranking.update(error, -error, pushed_down)
