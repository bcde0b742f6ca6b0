"""Rank & Sort loss: Oksuz, Cam, Akbas and Kalkan, ICCV 2021."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reference_impl.ops.checked import checked, require_positive
from reference_impl.ops.gradient import with_gradient
from reference_impl.ops.numerics import widen
from reference_impl.ops.opaque import opaque
from reference_impl.ops.soft_ranks import Ranking, SquareRamps, empty_update

__all__ = ["rank_sort_loss"]

ERROR_FREE = 1e-10


@checked
def rank_sort_loss(
    logits: Float[Tensor, "*batch n c"],
    labels: Int[Tensor, "*batch n"],
    iou: Float[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    delta: float = 0.5,
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""Ranks objects above background, and sorts the objects by how well their boxes fit, so that the score of a box carries its IoU.

    $$ L_R = \frac{1}{|\mathcal{P}|} \sum_{i \in \mathcal{P}} \frac{\mathrm{FP}(i)}{\mathrm{rank}(i)}, \qquad
    L_S = \frac{1}{|\mathcal{P}|} \sum_{i \in \mathcal{P}} \left( \frac{\sum_k H_{ik} (1 - t_k)}{\sum_k H_{ik}} -
    \frac{\sum_k [t_k \ge t_i] H_{ik} (1 - t_k)}{\sum_k [t_k \ge t_i] H_{ik}} \right) $$

    with $H_{ij} = \min(\max((s_j - s_i) / 2\delta + 1/2, 0), 1)$, false positives $\mathrm{FP}(i) = \sum_{j \in \mathcal{N}} H_{ij}$ and
    $\mathrm{rank}(i) = \mathrm{FP}(i) + \sum_k H_{ik}$. $\mathcal{P}$ are the scores of boxes for their own class, $\mathcal{N}$ all other
    scores, $k$ runs over $\mathcal{P}$ and $i$ itself, with $H_{ii} = 1/2$. The sorting error of $i$ is the mean localisation error at and
    above it, less what that would be without the worse boxes above it.

    The gradients are not the derivatives, but updates driven by the errors: each addend moves its $s_i$ up by itself over $|\mathcal{P}|$,
    and down by the same amount what causes it, each in proportion to its $H_{ij}$: for a ranking error the negatives, for a sorting error
    the positives with a lower IoU.

    The paper adds the two, and to them a box loss whose weight is the value of their sum over its own. It ranks the scores of a mini-batch
    together; flatten its images into $n$ for that. The time is $O(n \log n + |\mathcal{P}| \log^2 |\mathcal{P}|)$.

    Args:
        logits: $s$, one for each of $C$ foreground classes.
        labels: 0 to $C - 1$, or $C$ for background, for which every class is a negative.
        iou: $t$ in [0, 1] of each predicted box with its object, read where the box has one.
        valid: the scores of the other boxes are not ranked; by default all are valid.
        delta: $\delta > 0$, half the length of the ramp from 0 to 1, in the unit of the logits.

    Returns:
        The ranking and the sorting loss, one of each for each ranking, in [0, 1]; 0 without positives.

    Raises:
        ValueError: the shapes of `labels`, `iou` or `valid` are not that of `logits` without its last dimension; `delta` is not positive.
    """
    require_positive("rank_sort_loss", delta=delta)
    rank_loss, rank_update, sorting_loss, sorting_update = _updates(logits.detach(), labels, iou.detach(), valid, delta)
    logits = widen(logits).flatten(-2)
    return with_gradient(rank_loss, logits, rank_update), with_gradient(sorting_loss, logits, sorting_update)


@opaque(lambda *given: (*empty_update(*given), *empty_update(*given)))
def _updates(logits: Tensor, labels: Tensor, iou: Tensor, valid: Tensor | None, delta: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ranking = Ranking(logits, labels, valid, delta=delta)
    quality = ranking.of_boxes(iou.double())
    positives = SquareRamps(ranking.depth, quality)
    false_positives, rank_among_positives = ranking.negatives.times(), positives.times()
    ranking_error = false_positives / (rank_among_positives + false_positives) * ranking.share
    pushed_down = ranking.negatives.transposed_times(ranking_error / false_positives.clamp(min=ERROR_FREE))

    counted = ranking.positive.double()
    localisation = (1 - quality) * counted
    missorted, missorted_error = positives.times_worse(torch.stack((counted, localisation), -2)).unbind(-2)
    total_error = positives.times(localisation)
    sorting_error = total_error / rank_among_positives - (total_error - missorted_error) / (rank_among_positives - missorted)
    sorting_error = torch.where(missorted > ERROR_FREE, sorting_error, 0).clamp(min=0) * ranking.share
    lowered = positives.transposed_times_worse((sorting_error / missorted.clamp(min=ERROR_FREE))[..., None, :]).squeeze(-2)
    of_ranks, of_places = ranking.update(ranking_error, -ranking_error, pushed_down), ranking.update(sorting_error, lowered - sorting_error)
    return *of_ranks, *of_places
