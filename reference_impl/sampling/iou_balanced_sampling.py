"""IoU-balanced sampling: Pang, Chen, Shi, Feng, Ouyang and Lin, CVPR 2019 (Libra R-CNN)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from reference_impl.ops.checked import checked
from reference_impl.ops.density import bin_index
from reference_impl.ops.numerics import safe_divide, widen
from reference_impl.ops.ranks import descending_rank, rank_within_groups
from reference_impl.ops.select import take

__all__ = ["iou_balanced_sampling", "truth_balanced_sampling"]


@checked
def iou_balanced_sampling(
    iou: Float[Tensor, "*batch n"],
    negative: Bool[Tensor, "*batch n"],
    noise: Float[Tensor, "*batch n"] | None = None,
    fill_noise: Float[Tensor, "*batch n"] | None = None,
    *,
    num_negatives: int = 384,
    bins: int = 3,
) -> Float[Tensor, "*batch n"]:
    r"""Draws equally many negatives from each range of IoU, so that the few that overlap an object are seen as often as the many others.

    $$ p_k = \frac{N}{K} \cdot \frac{1}{M_k} $$

    is the chance that a negative in bin $k$ of $K$ is drawn, where $M_k$ negatives lie in that bin and $N$ are wanted. The bins split the
    interval from the lowest to the highest IoU of the negatives into $K$ equal parts; an inner edge belongs to the bin above it, the
    highest IoU to the last. What bins with too few negatives leave open, and the remainder of $N / K$, is drawn from all other negatives.

    Args:
        iou: highest IoU of each box with a ground truth, in [0, 1].
        negative: the boxes to draw from.
        noise: uniform in [0, 1), orders the negatives of a bin (highest first); a fresh draw by default.
        fill_noise: uniform in [0, 1), independent of `noise`, orders the rest; a fresh draw by default.
        num_negatives: number $N$ of negatives to draw; with fewer, all are taken.
        bins: number of bins $K$.

    Returns:
        1 for each drawn negative and 0 for every other box. For the positives there is `truth_balanced_sampling`.
    """
    iou = widen(iou.detach())
    noise = torch.rand_like(iou) if noise is None else noise
    fill_noise = torch.rand_like(iou) if fill_noise is None else fill_noise
    # Padded, because an empty set has no minimum and no maximum.
    lowest = pad(torch.where(negative, iou, 1), (0, 1), value=1).amin(-1, keepdim=True)
    highest = pad(torch.where(negative, iou, 0), (0, 1), value=0).amax(-1, keepdim=True)
    index = bin_index(safe_divide(iou - lowest, highest - lowest), bins=bins)
    chosen = torch.zeros_like(negative)
    for k in range(bins):
        chosen = chosen | take(noise, negative & (index == k), num_negatives // bins)
    return take(fill_noise.masked_fill(chosen, torch.inf), negative, num_negatives).to(iou)


@checked
def truth_balanced_sampling(
    truth: Int[Tensor, "*batch n"],
    positive: Bool[Tensor, "*batch n"],
    noise: Float[Tensor, "*batch n"] | None = None,
    fill_noise: Float[Tensor, "*batch n"] | None = None,
    *,
    num_positives: int = 128,
) -> Float[Tensor, "*batch n"]:
    r"""Draws equally many positives of every ground truth, so that a large object with many boxes does not crowd out a small one with few.

    $$ p_i = \frac{N_+}{G} \cdot \frac{1}{n_i} $$

    is the chance that a positive of ground truth $i$ of $G$ is drawn, where $n_i$ positives belong to it and $N_+$ are wanted. There are
    too few positives for bins of IoU. What ground truths with too few leave open, and the remainder of $N_+ / G$, is drawn from all other
    positives.

    Args:
        truth: index >= 0 of each positive's ground truth; that of other boxes is not used.
        positive: the boxes to draw from.
        noise: uniform in [0, 1), orders the positives of a ground truth (highest first); a fresh draw by default.
        fill_noise: uniform in [0, 1), independent of `noise`, orders the rest; a fresh draw by default.
        num_positives: number $N_+$ of positives to draw; with fewer, all are taken.

    Returns:
        1 for each drawn positive and 0 for every other box.
    """
    noise = torch.rand(truth.shape, device=truth.device) if noise is None else widen(noise.detach())
    fill_noise = torch.rand_like(noise) if fill_noise is None else fill_noise
    rank = rank_within_groups(descending_rank(noise), truth.where(positive, -1))
    truths = (positive & (rank == 0)).sum(-1, keepdim=True).clamp(min=1)
    chosen = positive & (rank < num_positives // truths)
    chosen = chosen | take(fill_noise, positive & ~chosen, num_positives - chosen.sum(-1, keepdim=True))
    return chosen.to(noise)
