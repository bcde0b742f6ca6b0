"""aLRP loss: Oksuz, Cam, Akbas and Kalkan, NeurIPS 2020."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reference_impl.ops.checked import checked, require_positive
from reference_impl.ops.gradient import with_gradient
from reference_impl.ops.numerics import safe_divide, widen
from reference_impl.ops.opaque import opaque
from reference_impl.ops.soft_ranks import Ramps, Ranking, empty_update

__all__ = ["alrp_balance", "alrp_loss"]

ERROR_FREE = 1e-5


@checked
def alrp_loss(
    logits: Float[Tensor, "*batch n c"],
    labels: Int[Tensor, "*batch n"],
    loss: Float[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    delta: float = 1.0,
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""Mean over objects of the false positives and localisation errors ranked above each, over its rank: a high score needs a good box.

    $$ L = \frac{1}{|\mathcal{P}|} \sum_{i \in \mathcal{P}} \frac{1}{\mathrm{rank}(i)} \Big( \mathrm{FP}(i) + \sum_{s_k \ge s_i} E_k \Big),
    \qquad \mathrm{FP}(i) = \sum_{j \in \mathcal{N}} H(s_j - s_i), \qquad
    \mathrm{rank}(i) = \mathrm{FP}(i) + 1 + \sum_{k \ne i} H(s_k - s_i), \qquad
    H(x) = \min\left(\max\left(\frac{x}{2\delta} + \frac{1}{2}, 0\right), 1\right) $$

    $\mathcal{P}$ are the scores of boxes for their own class, $\mathcal{N}$ all other scores, $k$ runs over $\mathcal{P}$. The two
    addends are the classification and the localisation part. The gradient of the first on the logits is not the derivative, but an update
    driven by the error: a positive moves up by $(\mathrm{FP}(i) + \sum_{k \ne i} H(s_k - s_i) E_k) / (|\mathcal{P}| \, \mathrm{rank}(i))$,
    and the negatives above it down by the same amount, each by its part in $\mathrm{FP}(i)$; where $\mathrm{FP}(i) \le 10^{-5}$ nothing
    moves. So badly placed boxes push up the positives they outrank. The second part differentiates by $E$ alone.

    The paper multiplies the localisation part by `alrp_balance` and minimises the sum, over all scores of a mini-batch in one ranking.

    Args:
        logits: $s$, one for each of $C$ foreground classes.
        labels: 0 to $C - 1$, or $C$ for background, for which every class is a negative.
        loss: localisation error $E \ge 0$ of each box, read where the box has an object; in [0, 1] for the bounds below. In the paper
            $(1 - \mathrm{IoU}) / (1 - \tau)$ or half of the GIoU loss over $1 - \tau$, with $\tau = 0.5$.
        valid: the scores of the other boxes are not ranked; by default all are valid.
        delta: $\delta > 0$, half the length of the ramp from 0 to 1, in the unit of the logits.

    Returns:
        The classification and the localisation part, one of each for each ranking. Their sum is in [0, 1]; 0 without positives.

    Raises:
        ValueError: the shapes of `labels`, `loss` or `valid` are not that of `logits` without its last dimension; `delta` is not positive.
    """
    require_positive("alrp_loss", delta=delta)
    value, gradient, weight = _update(logits.detach(), labels, loss.detach(), valid, delta)
    classification = with_gradient(value, widen(logits).flatten(-2), gradient)
    return classification, torch.where(weight > 0, weight * widen(loss), 0).sum(-1)


@opaque(lambda logits, labels, loss, *_: (*empty_update(logits), torch.empty_like(widen(loss))))
def _update(logits: Tensor, labels: Tensor, loss: Tensor, valid: Tensor | None, delta: float) -> tuple[Tensor, Tensor, Tensor]:
    ranking = Ranking(logits, labels, valid, delta=delta)
    false_positives = ranking.negatives.times()
    positives = Ramps(ranking.depth, ranking.depth)
    # The ramp gives each positive half of itself, its rank all of it.
    rank = positives.times() + 0.5 + false_positives
    localisation = ranking.of_boxes(widen(loss)).double()

    above = positives.times(localisation) - 0.5 * localisation
    error = torch.where(false_positives > ERROR_FREE, (false_positives + above) / rank, 0) * ranking.share
    pushed_down = ranking.negatives.transposed_times(error / false_positives.clamp(min=ERROR_FREE))
    classification, gradient = ranking.update(false_positives / rank * ranking.share, -error, pushed_down)

    # An object counts at its own rank and at all below it.
    at_and_below = (ranking.share / rank).flip(-1).cumsum(-1).flip(-1)
    of_object = at_and_below.where(ranking.positive, 0).to(widen(loss).dtype)
    return classification, gradient, of_object.new_zeros(loss.shape).scatter_(-1, ranking.box, of_object)


@checked
def alrp_balance(classification: Float[Tensor, "*batch"], localisation: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""Weight of the localisation part that makes its gradient as large as the classification part's.

    $$ w = \frac{\overline{L_{cls}} + \overline{L_{loc}}}{\overline{L_{loc}}} $$

    The means are taken over the last epoch; the authors' code begins with a weight of 50. No gradient flows through it.

    Args:
        classification: running mean of the first part of `alrp_loss`, >= 0.
        localisation: running mean of the second, >= 0.

    Returns:
        A weight >= 1; 1 where the localisation part is 0.
    """
    classification, localisation = widen(classification.detach()), widen(localisation.detach())
    return 1 + safe_divide(classification, localisation)
