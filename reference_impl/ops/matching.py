"""Labelling anchors by IoU, as Faster R-CNN and RetinaNet do, in memory that does not grow with anchors times ground truths."""

from itertools import product
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
NEIGHBOURS = 8


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
    anchors: Float[Tensor, "*#batch n 4"],
    boxes: Float[Tensor, "*#batch m 4"],
    valid: Bool[Tensor, "*#batch m"] | None = None,
    *,
    lowest: float = 0.0,
) -> Overlaps:
    """For each anchor the ground truth that it overlaps most, for each ground truth the anchor, without a matrix of all pairs.

    A few ground truths at a time meet all anchors, and only the maxima are kept. Where there are many pairs, the CPU takes a few that lie
    near each other, and lets them meet the anchors around them alone.

    Args:
        anchors: absolute `(x1, y1, x2, y2)` in pixels, one set for all images or one for each.
        boxes: ground truths, the same.
        valid: which of `boxes` are no padding; by default all.
        lowest: a ground truth that no anchor overlaps this much has no best anchor in `is_best`, nor has one that none overlaps.

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
    columns, rows = (sides_and_area(x[(None,) * (len(batch) + 2 - x.dim())]).expand(-1, *batch, -1) for x in (anchors, boxes))
    few = columns.shape[-1] * rows.shape[-1] <= 4 * PAIRS_AT_ONCE
    if few or boxes.device.type != "cpu" or torch.compiler.is_compiling():
        return _of_all(columns, rows, lowest)
    found = _nothing(columns, rows)
    for image in product(*map(range, batch)):
        its: tuple[slice | int, ...] = (slice(None), *image)
        _of_neighbours(columns[its], rows[its], lowest, Overlaps(*(x[image] for x in found)))
    return found


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
    it just as little. In mmdetection a best anchor stands for the ground truth that it is the best of, the last of several.
    `heads.ssd_targets` instead gives each ground truth an anchor of its own.

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


def _nothing(columns: Tensor, rows: Tensor) -> Overlaps:
    iou, truth_iou = columns.new_zeros(columns.shape[1:]), rows.new_zeros(rows.shape[1:])
    truth, anchor = (torch.zeros_like(x, dtype=torch.int64) for x in (iou, truth_iou))
    return Overlaps(iou, truth, torch.zeros_like(iou, dtype=torch.bool), truth_iou, anchor)


def _of_all(columns: Tensor, rows: Tensor, lowest: float) -> Overlaps:
    """Of anchors with ground truths, given as `sides_and_area`, `[5 *batch n]` and `[5 *batch m]`."""
    iou, truth, is_best, truth_iou, anchor = _nothing(columns, rows)
    n, m = columns.shape[-1], rows.shape[-1]
    step = max(1, min(m, PAIRS_AT_ONCE // max(1, iou.numel())))
    scratch = iou.new_empty(3, *iou.shape[:-1], step, n)
    for start in range(0, m if n else 0, step):
        some = rows[..., start : start + step]
        pairs, height, spare = scratch[..., : some.shape[-1], :]
        iou_into(pairs, some[..., None], columns[..., None, :], (height, spare))
        reach, anchor[..., start : start + step] = pairs.max(-1)
        truth_iou[..., start : start + step] = reach
        bar = reach.masked_fill((reach == 0) | (reach < lowest), torch.inf)
        is_best |= torch.sub(pairs, bar[..., None], out=spare).amax(-2) == 0
        highest = pairs.amax(-2)
        truth = torch.where(highest > iou, start + _first_row(pairs, highest), truth)
        iou = torch.maximum(highest, iou)
    return Overlaps(iou, truth, is_best, truth_iou, anchor)


def _of_neighbours(columns: Tensor, rows: Tensor, lowest: float, found: Overlaps) -> None:
    """The same of one image, written into `found`: a few ground truths meet the anchors that overlap the box around them."""
    center = rows[:2] + rows[2:4]
    for few in _split(center, torch.arange(rows.shape[-1], device=rows.device)):
        some = rows[:, few]
        first, last = some[:2].amin(-1, keepdim=True), some[2:4].amax(-1, keepdim=True)
        sides = torch.minimum(columns[2:4], last).sub_(torch.maximum(columns[:2], first))
        near = (sides.amin(0) > 0).nonzero().squeeze(-1)
        if len(near) > 0:
            own = _of_all(columns.index_select(-1, near), some, lowest)
            found.truth_iou[few], found.anchor[few] = own.truth_iou, near[own.anchor].masked_fill(own.truth_iou == 0, 0)
            iou, truth, new = found.iou[near], found.truth[near], few[own.truth]
            found.truth[near] = torch.where((own.iou > iou) | ((own.iou == iou) & (new < truth)), new, truth)
            found.iou[near] = torch.maximum(own.iou, iou)
            found.is_best[near] |= own.is_best


def _split(center: Tensor, index: Tensor) -> list[Tensor]:
    """The indices of points, `[2 m]`, in small parts of neighbours, each in order: the halves of a set lie side by side."""
    if len(index) <= NEIGHBOURS:
        return [index]
    of_part = center[:, index]
    along = of_part[(of_part.amax(-1) - of_part.amin(-1)).argmax()]
    return [part for half in along.argsort().chunk(2) for part in _split(center, index[half.sort().values])]


def _first_row(pairs: Tensor, highest: Tensor) -> Tensor:
    """The first row of each column that holds its maximum, as `argmax(-2)`, but ten times as fast; overwrites `pairs`."""
    rows = pairs.shape[-2]
    countdown = torch.arange(rows, 0, -1, dtype=pairs.dtype, device=pairs.device)[:, None]
    return rows - pairs.ge_(highest[..., None, :]).mul_(countdown).amax(-2).long()
