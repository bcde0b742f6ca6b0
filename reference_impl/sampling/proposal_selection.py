"""Selection of proposals by objectness: Ren, He, Girshick and Sun, TPAMI 2017 (Faster R-CNN)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.nms import nms
from reference_impl.ops.numerics import widen
from reference_impl.ops.ranks import descending_rank, rank_within_groups

__all__ = ["proposal_selection"]


@checked
def proposal_selection(
    boxes: Float[Tensor, "*batch n 4"],
    objectness: Float[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    level: Int[Tensor, "*batch n"] | None = None,
    *,
    before: int = 12000,
    after: int = 2000,
    threshold: float = 0.7,
) -> Float[Tensor, "*batch n"]:
    r"""Shows the second network only the regions that the first one holds to be objects, each object's duplicates left out.

    $$ \mathcal{B}' = \mathrm{top}_{N_2}\Bigl(\bigcup_l \mathrm{NMS}_{\theta}\bigl(\mathrm{top}_{N_1}(\mathcal{B}_l)\bigr)\Bigr) $$

    Both choices are by objectness. $\mathcal{B}_l$ are the proposals of level $l$ of a feature pyramid; those of different levels do not
    suppress each other, and the last choice is among all. Without a pyramid there is one level. The mini-batch of the second stage is
    then sampled from what is left.

    Args:
        boxes: the proposals, anchors after regression, absolute `(x1, y1, x2, y2)` in pixels, cut off at the border of the image.
        objectness: of each proposal, in [0, 1]; only the order counts, so that logits, which do not saturate, serve as well.
        valid: which proposals take part, as a rule those that are not too small; by default all.
        level: index >= 0 of the level that each proposal comes from; by default all are of one.
        before: number $N_1$ of proposals of each level that enter suppression.
        after: number $N_2$ of proposals of an image that stay.
        threshold: IoU $\theta$ above which the proposal with the lower objectness is left out.

    Returns:
        1 for each proposal that stays and 0 for every other.
    """
    objectness = widen(objectness.detach())
    valid = torch.ones_like(objectness, dtype=torch.bool) if valid is None else valid
    level = torch.zeros_like(valid, dtype=torch.int64) if level is None else level
    place = rank_within_groups(descending_rank(objectness), level.masked_fill(~valid, -1))
    kept = nms(boxes, objectness, valid & (place < before), level, limit=after, threshold=threshold)
    return kept.to(objectness)
