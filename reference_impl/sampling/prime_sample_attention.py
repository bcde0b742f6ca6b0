"""PrIme Sample Attention, its importance-based reweighting and its sampling of negatives: Cao, Chen, Loy and Lin, CVPR 2020."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from reference_impl.ops.boxes import box_iou
from reference_impl.ops.checked import checked
from reference_impl.ops.nms import nms
from reference_impl.ops.numerics import safe_divide, widen
from reference_impl.ops.ranks import descending_rank, rank_within_groups
from reference_impl.ops.select import take

__all__ = ["nms_clusters", "prime_sample_attention", "score_hlr"]


@checked
def prime_sample_attention(
    iou: Float[Tensor, "*batch n"],
    score: Float[Tensor, "*batch n"],
    labels: Int[Tensor, "*batch n"],
    truth: Int[Tensor, "*batch n"],
    positive: Bool[Tensor, "*batch n"],
    negative: Bool[Tensor, "*batch n"],
    cluster: Int[Tensor, "*batch n"] | None = None,
    n_max: Int[Tensor, "*batch"] | int | None = None,
    loss: Float[Tensor, "*batch n"] | None = None,
    *,
    gamma_positive: float = 2.0,
    beta_positive: float = 0.0,
    gamma_negative: float = 0.5,
    beta_negative: float = 0.0,
) -> Float[Tensor, "*batch n"]:
    r"""Lets the best box of each object and the worst false alarm of each spot count most, instead of the boxes with the highest loss.

    $$ \bar r_i = \frac{N_{max} - r_i}{N_{max}}, \qquad w_i = ((1 - \beta)\,\bar r_i + \beta)^\gamma $$

    Survey, Eqs. 5 and 6. The rank $r_i$ within the class of a box is found in two steps. Boxes of one ground truth (one cluster, for
    negatives) are ranked among themselves, by IoU (by score). Then the class is ranked by that rank, and boxes that have it in common by
    IoU (score) again: the best box of every object comes before any second best. The weights are constants: no gradient passes through.

    $N_{max}$ is the number of boxes in the largest foreground class; negatives are ranked out of their own number, as in the authors' code.
    The survey's Table 3 counts the background as a class: `n_max` is for that.

    Args:
        iou: IoU of each predicted box with its ground truth, in [0, 1]; what stands for boxes that are not positive is not used.
        score: highest foreground score, in [0, 1]; what stands for boxes that are not negative is not used.
        labels: class of each positive.
        truth: index of each positive's ground truth, >= 0; different in every image.
        positive: boxes weighted by `iou`.
        negative: boxes weighted by `score`.
        cluster: index >= 0 of each negative's cluster of overlapping predictions, as from `nms_clusters`; by default each is alone.
        n_max: $N_{max}$ for the positives, at least the size of the largest foreground class, which is the default.
        loss: classification loss before weighting. If given, the weights are scaled so that the weighted losses of the positives, and those
            of the negatives, have the sum that they had before. Over several processes leave it out, and multiply the weights of each of
            the two by `world_sum` of its losses over `world_sum` of its weighted losses.
        gamma_positive: $\gamma$ for positives; 0 is no weighting.
        beta_positive: $\beta$ for positives, in [0, 1].
        gamma_negative: $\gamma$ for negatives.
        beta_negative: $\beta$ for negatives.

    Returns:
        One weight for each box, 0 for boxes that are neither; in [0, 1] unless `loss` is given.
    """
    iou, score = widen(iou.detach()), widen(score.detach())
    alone = torch.arange(iou.shape[-1], device=iou.device).expand_as(labels)
    best_first = descending_rank(iou.where(positive, score))

    # Objects have even numbers, clusters odd ones.
    spot = 2 * truth.where(positive, alone if cluster is None else cluster) + negative.long()
    local = rank_within_groups(best_first, spot.where(positive | negative, -1))
    # The classes, all negatives, and all other boxes.
    family = labels.where(positive, torch.where(negative, -1, -2))
    rank = rank_within_groups(local * iou.shape[-1] + best_first, family)

    if n_max is None:
        largest = pad((rank + 1) * positive, (0, 1)).amax(-1, keepdim=True)
    else:
        largest = n_max[..., None] if isinstance(n_max, Tensor) else torch.full_like(labels, n_max)
    largest = torch.where(negative, negative.sum(-1, keepdim=True), largest)
    normalised = safe_divide((largest - rank).clamp(min=0).to(iou.dtype), largest.to(iou.dtype))

    weight = torch.where(
        positive,
        ((1 - beta_positive) * normalised + beta_positive) ** gamma_positive,
        ((1 - beta_negative) * normalised + beta_negative) ** gamma_negative,
    )
    if loss is not None:
        loss = widen(loss.detach())
        weight = weight * torch.where(positive, _kept_sum(loss, weight, positive), _kept_sum(loss, weight, negative))
    return weight.where(positive | negative, 0)


@checked
def nms_clusters(
    boxes: Float[Tensor, "*batch n 4"],
    score: Float[Tensor, "*batch n"],
    among: Bool[Tensor, "*batch n"] | None = None,
    *,
    threshold: float = 0.5,
    limit: int = 512,
) -> Int[Tensor, "*batch n"]:
    r"""Groups the predictions of a spot by greedy suppression: each belongs to the box that would suppress it.

    $$ k_i = \arg\max_j \{ s_j : j \text{ is kept},\; \mathrm{IoU}(B_i, B_j) > \theta \} $$

    No gradient passes through.

    Args:
        boxes: predicted boxes $B$ of the negatives, for the class of the score, absolute `(x1, y1, x2, y2)` in pixels.
        score: highest foreground score $s$.
        among: the boxes to group, the negatives; by default all.
        threshold: IoU $\theta$ above which one box suppresses the other.
        limit: number of clusters to find, those with the highest scores. All other boxes are alone, which makes no difference to the first
            `limit` in the order of `score_hlr`.

    Returns:
        For each box the index of the one that stands for its cluster, its own if it is kept or does not take part.
    """
    boxes, score = widen(boxes.detach()), widen(score.detach())
    kept = nms(boxes, score, among, limit=limit, threshold=threshold)
    alone = torch.arange(score.shape[-1], device=score.device).expand(kept.shape)
    if score.shape[-1] == 0:
        return alone.clone()
    suppresses = (box_iou(boxes[..., :, None, :], boxes[..., None, :, :]) > threshold) & kept[..., None, :]
    if among is not None:
        suppresses = suppresses & among[..., None]
    first = descending_rank(score)[..., None, :].masked_fill(~suppresses, score.shape[-1]).argmin(-1)
    return torch.where(kept | ~suppresses.any(-1), alone, first)


@checked
def score_hlr(
    score: Float[Tensor, "*batch n"],
    cluster: Int[Tensor, "*batch n"],
    negative: Bool[Tensor, "*batch n"],
    count: Int[Tensor, "*batch"],
    loss: Float[Tensor, "*batch n"] | None = None,
    noise: Float[Tensor, "*batch n"] | None = None,
    *,
    gamma_negative: float = 0.5,
    beta_negative: float = 0.0,
    lowest: float = 0.05,
) -> Float[Tensor, "*batch n"]:
    r"""Draws the negatives of a batch by their hierarchical local rank, the worst false alarm of each spot first, and weighs them by it.

    $$ \bar r_i = \frac{N - r_i}{N}, \qquad w_i = ((1 - \beta)\,\bar r_i + \beta)^\gamma, \qquad N = \max(n, |\{s_i > \theta_s\}|) $$

    Only negatives above a score have a rank $r_i$, within their cluster first, as in `prime_sample_attention`. If they are too few, others
    are drawn at random and have the weight of the last that has a rank. The weights are constants: no gradient passes through.

    Args:
        score: highest foreground score, in [0, 1].
        cluster: index >= 0 of the cluster of overlapping predictions, as from `nms_clusters`.
        negative: boxes to draw from.
        count: number $n$ of boxes to draw, those of the batch that are no positives; all if there are fewer.
        loss: classification loss before weighting. If given, the weights are scaled so that the weighted losses of the drawn boxes have the
            sum that they had before.
        noise: uniform in [0, 1), orders the negatives without a rank (highest first); a fresh draw by default.
        gamma_negative: $\gamma$; 0 is no weighting.
        beta_negative: $\beta$, in [0, 1].
        lowest: score $\theta_s$ up to which a negative has no rank.

    Returns:
        One weight for each drawn box, 0 for every other; in [0, 1] unless `loss` is given.
    """
    score = widen(score.detach())
    noise = torch.rand_like(score) if noise is None else widen(noise)
    ranked, best_first = negative & (score > lowest), descending_rank(score)
    local = rank_within_groups(best_first, cluster.where(ranked, -1))
    rank = rank_within_groups(local * score.shape[-1] + best_first, ranked.long())

    wanted = count.minimum(negative.sum(-1))[..., None]
    by_rank = ranked & (rank < wanted)
    known = by_rank.sum(-1, keepdim=True)
    at_random = take(noise, negative & ~ranked, wanted - known)

    largest = wanted.maximum(ranked.sum(-1, keepdim=True))
    place = torch.where(by_rank, rank, (known - 1).clamp(min=0))
    normalised = safe_divide((largest - place).to(score.dtype), largest.to(score.dtype))
    weight = ((1 - beta_negative) * normalised.clamp(min=0) + beta_negative) ** gamma_negative
    drawn = by_rank | at_random
    if loss is not None:
        weight = weight * _kept_sum(widen(loss.detach()), weight, drawn)
    return weight.where(drawn, 0)


def _kept_sum(loss: Tensor, weight: Tensor, among: Tensor) -> Tensor:
    """The factor that gives the weighted losses of `among` the sum of the unweighted ones; 1 if they have none."""
    before = (loss * among).sum(-1, keepdim=True)
    after = (loss * weight * among).sum(-1, keepdim=True)
    return torch.where(after == 0, 1, safe_divide(before, after))
