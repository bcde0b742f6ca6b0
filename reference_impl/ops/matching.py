"""Labelling anchors by IoU, as Faster R-CNN and RetinaNet do, in memory that does not grow with anchors times ground truths."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reference_impl.ops.boxes import iou_into, sides_and_area
from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen

__all__ = ["BACKGROUND", "IGNORED", "Overlaps", "best_overlaps", "match"]

BACKGROUND, IGNORED = -1, -2
PAIRS_AT_ONCE = 2**19


class Overlaps(NamedTuple):
    """The largest IoU of each anchor (`iou`, with `truth`) and of each ground truth (`truth_iou`, with `anchor`).

    The earlier index wins a tie. Where nothing overlaps, IoU and index are 0. `is_best` marks the anchors whose IoU with some ground truth
    no other anchor surpasses, all of them where several tie.
    """

    iou: Tensor
    truth: Tensor
    is_best: Tensor
    truth_iou: Tensor
    anchor: Tensor


@checked
def best_overlaps(
    anchors: Float[Tensor, "*#batch n 4"], boxes: Float[Tensor, "*#batch m 4"], valid: Bool[Tensor, "*#batch m"] | None = None
) -> Overlaps:
    """For each anchor the ground truth that it overlaps most, for each ground truth the anchor, without a matrix of all pairs.

    A few ground truths at a time meet all anchors, and only the maxima are kept.

    Args:
        anchors: absolute `(x1, y1, x2, y2)` in pixels, one set for all images or one for each.
        boxes: ground truths, the same.
        valid: which of `boxes` are no padding; by default all.

    Returns:
        `iou`, `truth`, `is_best` of shape `[*batch n]`; `truth_iou`, `anchor` of shape `[*batch m]`. They carry no gradient.

    Raises:
        ValueError: the shapes do not fit.
    """
    dtype = torch.promote_types(widen(anchors).dtype, widen(boxes).dtype)
    anchors, boxes = anchors.detach().to(dtype), boxes.detach().to(dtype)
    if valid is not None:
        boxes = torch.where(valid[..., None], boxes, 0)
    batch = torch.broadcast_shapes(anchors.shape[:-2], boxes.shape[:-2])  # type: ignore[no-untyped-call]
    boxes = boxes.expand(*batch, -1, 4)
    iou = anchors.new_zeros(*batch, anchors.shape[-2])
    truth = torch.zeros_like(iou)
    is_best = torch.zeros_like(iou, dtype=torch.bool)
    truth_iou = torch.zeros_like(boxes[..., 0])
    anchor = torch.zeros_like(truth_iou, dtype=torch.int64)
    n, m = iou.shape[-1], boxes.shape[-2]
    step = max(1, min(m, PAIRS_AT_ONCE // max(1, iou.numel())))
    columns = sides_and_area(anchors[..., None, :, :])
    scratch = iou.new_empty(3, *batch, step, n)
    for start in range(0, m if n else 0, step):
        some = boxes[..., start : start + step, :]
        pairs, height, spare = scratch[..., : some.shape[-2], :]
        iou_into(pairs, sides_and_area(some[..., :, None, :]), columns, (height, spare))
        reach, anchor[..., start : start + step] = pairs.max(-1)
        truth_iou[..., start : start + step] = reach
        bar = reach.masked_fill(reach == 0, torch.inf)
        is_best |= torch.sub(pairs, bar[..., None], out=spare).amax(-2) == 0
        highest = pairs.amax(-2)
        truth = torch.where(highest > iou, start + _first_row(pairs, highest), truth)
        iou = torch.maximum(highest, iou)
    return Overlaps(iou, truth.long(), is_best, truth_iou, anchor)


@checked
def match(
    anchors: Float[Tensor, "*#batch n 4"],
    boxes: Float[Tensor, "*#batch m 4"],
    valid: Bool[Tensor, "*#batch m"] | None = None,
    *,
    positive: float = 0.5,
    negative: float = 0.4,
    keep_best: bool = True,
) -> Int[Tensor, "*#batch n"]:
    """Labels each anchor with the ground truth that it stands for, with background, or as too close to call.

    A ground truth that no anchor overlaps enough keeps the anchors that overlap it most, if any does. Even those stand for the ground truth
    that they themselves overlap most. In torchvision, Faster R-CNN's proposal network has thresholds 0.7 and 0.3, its second stage 0.5 and
    0.5 without `keep_best`, RetinaNet 0.5 and 0.4. There, a ground truth that overlaps nothing makes every anchor foreground that overlaps
    it just as little; SSD instead hands each ground truth its first best anchor: `labels.scatter(-1, found.anchor, indices)`.

    Args:
        anchors: absolute `(x1, y1, x2, y2)` in pixels, one set for all images or one for each.
        boxes: ground truths, the same.
        valid: which of `boxes` are no padding; by default all.
        positive: an anchor with this IoU or more is foreground.
        negative: an anchor with less IoU is background; in between it is ignored.
        keep_best: whether a ground truth's best anchors, all that tie, are foreground whatever their IoU.

    Returns:
        For each anchor the index of a ground truth, `BACKGROUND` (-1) or `IGNORED` (-2).

    Raises:
        ValueError: the shapes do not fit, or `negative` is not in (0, `positive`].
    """
    if not 0 < negative <= positive:
        raise ValueError(f"match: expected 0 < negative <= positive, got {negative} and {positive}")
    found = best_overlaps(anchors, boxes, valid)
    labels = found.truth.masked_fill(found.iou < positive, IGNORED).masked_fill(found.iou < negative, BACKGROUND)
    return torch.where(found.is_best, found.truth, labels) if keep_best else labels


def _first_row(pairs: Tensor, highest: Tensor) -> Tensor:
    """The first row of each column that holds its maximum, as `argmax(-2)`, but ten times as fast; overwrites `pairs`."""
    rows = pairs.shape[-2]
    countdown = torch.arange(rows, 0, -1, dtype=pairs.dtype, device=pairs.device)[:, None]
    return rows - pairs.ge_(highest[..., None, :]).mul_(countdown).amax(-2)
