"""Localisation recall precision (LRP) error: Oksuz, Cam, Akbas and Kalkan, ECCV 2018."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from reference_impl.ops.checked import checked
from reference_impl.ops.detections import match_detections
from reference_impl.ops.matching import IGNORED
from reference_impl.ops.numerics import widen
from reference_impl.ops.ranks import descending_order

__all__ = ["lrp_error", "lrp_of_classes", "optimal_lrp"]

Numbers = Float[Tensor, "*batch"]
PerClass = Float[Tensor, "*batch c"]


@checked
def lrp_error(
    iou: Float[Tensor, "*batch n"],
    matched: Bool[Tensor, "*batch n"],
    count: Int[Tensor, "*batch"],
    kept: Bool[Tensor, "*batch n"] | None = None,
    *,
    tau: float = 0.5,
) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    r"""Measures what is wrong with the detections of one class: boxes that do not fit, false alarms and misses, in one number.

    $$ \mathrm{LRP} = \frac{1}{N_{TP} + N_{FP} + N_{FN}}
    \left( \sum_{i \in TP} \frac{1 - \mathrm{IoU}_i}{1 - \tau} + N_{FP} + N_{FN} \right) $$

    A true positive that only just fits counts as much as a miss. The three parts are

    $$ \frac{1}{N_{TP}} \sum_{i \in TP} (1 - \mathrm{IoU}_i), \qquad \frac{N_{FP}}{N_{TP} + N_{FP}}, \qquad
    \frac{N_{FN}}{N_{TP} + N_{FN}} $$

    It is a measure, not a loss to train with: no gradient passes through.

    Args:
        iou: of each detection with the ground truth that it is matched to, in [0, 1]; what stands for others is not used.
        matched: whether a detection is matched, each ground truth to one detection at most, as COCO does it from the highest score down.
        count: number of ground truths.
        kept: the detections that count, those above the score threshold; by default all. The others are neither alarms nor hits.
        tau: $\tau$, IoU below which a matched detection is a false alarm after all, in [0, 1).

    Returns:
        The error in [0, 1], and its parts of localisation, of false positives and of false negatives. A part of nothing is 0.
    """
    iou = widen(iou.detach())
    hit = ((iou >= tau) & (matched if kept is None else matched & kept)).to(iou)
    tp = hit.sum(-1)
    found = torch.full_like(tp, iou.shape[-1]) if kept is None else kept.sum(-1)
    return _error_and_parts(tp, found, (hit - iou * hit).sum(-1), count, tau)


@checked
def optimal_lrp(
    score: Float[Tensor, "*batch n"],
    iou: Float[Tensor, "*batch n"],
    matched: Bool[Tensor, "*batch n"],
    count: Int[Tensor, "*batch"],
    kept: Bool[Tensor, "*batch n"] | None = None,
    *,
    tau: float = 0.5,
) -> tuple[Numbers, Numbers, Numbers, Numbers, Numbers]:
    r"""The least LRP error of a class over all score thresholds, and where it is: the best place to cut its detections off.

    $$ \mathrm{oLRP} = \min_s \mathrm{LRP}(\{i : s_i \ge s\}) $$

    Thresholds differ between classes, so give each class as a row. No gradient passes through.

    Args:
        score: of each detection, in [0, 1].
        iou: as for `lrp_error`.
        matched: as for `lrp_error`, of all detections: a match does not depend on the threshold.
        count: number of ground truths.
        kept: the detections that count at any threshold, without padding and those in ignored regions; by default all.
        tau: $\tau$, as for `lrp_error`.

    Returns:
        The error in [0, 1]; its parts of localisation, of false positives and of false negatives; and the threshold, the lowest score that
        is kept. Of several thresholds it is the highest. It is 1 where the best is to keep nothing.
    """
    score, iou = widen(score.detach()), widen(iou.detach())
    kept = torch.ones_like(matched) if kept is None else kept
    order = descending_order(score.masked_fill(~kept, -torch.inf))
    score, iou, hit, kept = (x.gather(-1, order) for x in (score, iou, matched & kept & (iou >= tau), kept))
    parts = _error_and_parts(hit.cumsum(-1).to(iou), kept.cumsum(-1), ((1 - iou) * hit).cumsum(-1), count[..., None], tau)

    # Detections with one score are kept or cut off together. The last cut keeps nothing.
    tied = pad(kept[..., 1:] & (score[..., 1:] == score[..., :-1]), (0, 1))[..., : kept.shape[-1]]
    is_cut = kept & ~tied
    nothing = (count > 0).to(iou.dtype)[..., None]
    error = torch.cat((parts[0].masked_fill(~is_cut, torch.inf), nothing), -1)
    best = error.argmin(-1, keepdim=True)
    rest = (torch.cat((x, last), -1) for x, last in zip((*parts[1:], score), (0 * nothing, 0 * nothing, nothing, nothing**0), strict=True))
    of_location, of_alarms, of_misses, threshold = (x.gather(-1, best).squeeze(-1) for x in rest)
    return error.gather(-1, best).squeeze(-1), of_location, of_alarms, of_misses, threshold


@checked
def lrp_of_classes(
    pred: Float[Tensor, "*batch k n 4"],
    score: Float[Tensor, "*batch k n"],
    labels: Int[Tensor, "*batch k n"],
    target: Float[Tensor, "*batch k m 4"],
    target_labels: Int[Tensor, "*batch k m"],
    classes: Int[Tensor, "c"],
    cut: Float[Tensor, "*batch c"] | None = None,
    ignored: Bool[Tensor, "*batch k m"] | None = None,
    crowd: Bool[Tensor, "*batch k m"] | None = None,
    *,
    tau: float = 0.5,
) -> tuple[PerClass, PerClass, PerClass, PerClass, PerClass]:
    r"""The LRP error of each class over a set of $k$ images, from the boxes: what is wrong with a detector, and where to cut a class off.

    Each image is matched by itself, as COCO does it (`ops.detections.match_detections`), and the detections of a class are then judged
    together, by `optimal_lrp`, or by `lrp_error` where the cut is given. Take the 100 most confident ones of an image and class for COCO's
    figures. No gradient passes through.

    Args:
        pred: boxes of the detections, absolute `(x1, y1, x2, y2)` in pixels.
        score: of each detection, in [0, 1].
        labels: class of each detection; one that is not in `classes` is padding.
        target: boxes of the ground truths, the same.
        target_labels: class of each ground truth; one that is not in `classes` is padding.
        classes: the classes to judge.
        cut: score of each class below which its detections are dropped; by default the one with the least error.
        ignored: ground truths that are neither to be found nor to be missed, nor is what is matched to them a false alarm; by default none.
        crowd: regions that are ignored, too, and hold any number of detections; by default none.
        tau: $\tau$, IoU that a match must have, in (0, 1).

    Returns:
        For each class the error in [0, 1]; its parts of localisation, of false positives and of false negatives; and where it is cut.
    """
    truth, iou = match_detections(pred, score, labels, target, target_labels, ignored, crowd, threshold=tau)
    counts = torch.ones_like(target_labels, dtype=torch.bool)
    for outside in (ignored, crowd):
        counts = counts if outside is None else counts & ~outside
    count = _rows(counts, target_labels, classes).sum(-1)
    kept = _rows(truth != IGNORED, labels, classes)
    score, iou, matched = (x.flatten(-2)[..., None, :].expand_as(kept) for x in (score, iou, truth >= 0))
    if cut is None:
        return optimal_lrp(score, iou, matched, count, kept, tau=tau)
    return *lrp_error(iou, matched, count, kept & (score >= cut[..., None]), tau=tau), widen(cut.detach().clone())


def _rows(found: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """Of all images in a row, which are found and of the class, one row for each class."""
    return found.flatten(-2)[..., None, :] & (labels.flatten(-2)[..., None, :] == classes[:, None])


def _error_and_parts(tp: Tensor, found: Tensor, misfit: Tensor, count: Tensor, tau: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    truths = torch.maximum(count, tp)
    fp, fn = found - tp, truths - tp
    error = (misfit / (1 - tau) + fp + fn) / (found + fn).clamp_min_(1)
    return error, misfit / tp.clamp_min(1), fp / found.clamp_min(1), fn / truths.clamp_min(1)
