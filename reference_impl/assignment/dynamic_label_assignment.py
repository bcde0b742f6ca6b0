"""Dynamic label assignment, of Dynamic R-CNN: Zhang, Chang, Ma, Wang and Chen, ECCV 2020."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from reference_impl.ops.boxes import box_iou
from reference_impl.ops.checked import checked
from reference_impl.ops.matching import BACKGROUND
from reference_impl.ops.numerics import widen
from reference_impl.ops.order import kth_largest

__all__ = ["dynamic_label_assignment", "dynamic_threshold", "largest_iou"]


@checked
def dynamic_label_assignment(
    proposals: Float[Tensor, "*batch n 4"],
    boxes: Float[Tensor, "*batch m 4"],
    threshold: Float[Tensor, ""],
    present: Bool[Tensor, "*batch m"] | None = None,
) -> tuple[Int[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    r"""Raises the IoU from which on a proposal is positive, as the proposals improve.

    $$ \mathrm{label}(b) = \begin{cases} \arg\max_j \mathrm{IoU}(b, \bar b_j), & \max_j \mathrm{IoU}(b, \bar b_j) \ge T_{now} \\
    -1, & \text{otherwise} \end{cases} $$

    Nothing is ignored, and a ground truth that no proposal overlaps enough has none. In each step, `largest_iou` says how well the
    proposals of the batch lie, and `dynamic_threshold` records it and gives the threshold of the next step. All pairs are held in memory.

    Args:
        proposals: absolute `(x1, y1, x2, y2)` in pixels.
        boxes: ground truths, the same.
        threshold: $T_{now}$, 0.4 at the start of training; even for 0, a proposal that overlaps nothing is background.
        present: which of `boxes` are no padding; by default all.

    Returns:
        For each proposal the index of a ground truth or `BACKGROUND` (-1), and its largest IoU, for `largest_iou`. They carry no gradient.

    Raises:
        ValueError: the shapes do not fit together.
    """
    iou = box_iou(proposals.detach()[..., None, :], boxes.detach()[..., None, :, :])
    if present is not None:
        iou = iou.where(present[..., None, :], 0)
    highest, truth = (iou if iou.shape[-1] else pad(iou, (0, 1))).max(-1)
    return truth.masked_fill_((highest < threshold).logical_or_(highest.logical_not()), BACKGROUND), highest


@checked
def largest_iou(iou: Float[Tensor, "*batch n"], valid: Bool[Tensor, "*batch n"] | None = None, *, k: int = 75) -> Float[Tensor, "*batch"]:
    """How well the better proposals of a batch lie: the `k`-th largest of their IoUs.

    The authors take the images of a GPU together, with $k = K_I$ times their number: flatten them into $n$. No gradient passes through.

    Args:
        iou: largest IoU of each proposal with a ground truth, in [0, 1].
        valid: proposals that count; by default all.
        k: $K_I$; with fewer valid proposals, it is the smallest IoU.

    Returns:
        The value to record, 0 if nothing is valid.
    """
    return kth_largest(widen(iou.detach()), valid, k=k)


@checked
def dynamic_threshold(
    record: Float[Tensor, "*batch c"],
    value: Float[Tensor, "*batch"],
    threshold: Float[Tensor, "*batch"],
    step: Int[Tensor, "*batch"],
    *,
    initial: float = 0.4,
) -> tuple[Float[Tensor, "*batch c"], Float[Tensor, "*batch"], Int[Tensor, "*batch"]]:
    r"""Records a value, and makes the mean of the record the new threshold each time the record is full.

    $$ T_{now} = \max(T_0, \mathrm{mean}(S_I)) $$

    The state is passed in and returned; nothing is kept, and no gradient passes through it. Start with a record of zeros and step 0; the
    authors' record has 100 places.

    Args:
        record: $S_I$, the last $c$ values; each overwrites the one $c$ steps before.
        value: `largest_iou` of this step, in [0, 1].
        threshold: $T_{now}$ so far; start with `initial`.
        step: number of values recorded before.
        initial: $T_0$, below which the threshold never falls.

    Returns:
        The record, the threshold for the next step, and the number of steps.

    Raises:
        ValueError: the shapes do not fit together.
    """
    record, threshold = widen(record.detach()), widen(threshold.detach())
    places = record.shape[-1]
    record = record.scatter(-1, (step % places)[..., None], value.detach()[..., None].to(record.dtype))
    full = (step + 1) % places == 0
    return record, torch.where(full, record.mean(-1).clamp(min=initial), threshold), step + 1
