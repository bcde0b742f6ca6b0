"""Matching detections with ground truths, as COCO judges them: the most confident one chooses first."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop
from torch.nn.functional import pad

from reference_impl.ops.boxes import box_area, box_intersection, box_iou
from reference_impl.ops.checked import checked
from reference_impl.ops.matching import IGNORED
from reference_impl.ops.numerics import host_may_look, safe_divide, widen
from reference_impl.ops.ranks import descending_rank

__all__ = ["match_detections"]

# Less than any IoU with a ground truth that counts, yet as exact: a power of two.
LAST_RESORT = 2.0**-64


@checked
def match_detections(
    pred: Float[Tensor, "*batch n 4"],
    score: Float[Tensor, "*batch n"],
    labels: Int[Tensor, "*batch n"],
    target: Float[Tensor, "*batch m 4"],
    target_labels: Int[Tensor, "*batch m"],
    ignored: Bool[Tensor, "*batch m"] | None = None,
    crowd: Bool[Tensor, "*batch m"] | None = None,
    *,
    threshold: float = 0.5,
) -> tuple[Int[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    """Gives each detection a ground truth of its class and image: from the highest score down, the one that fits best of those left.

    A detection takes an ignored ground truth only if it fits none that counts. All detections choose at once, and those that a better one
    forestalls choose again, which gives the same; there are hardly ever more than a few rounds. The CPU ends with the last that changes
    anything. A device goes on for as many as there could be, one for each ground truth, so that the host need not wait.

    Args:
        pred: boxes of the detections, absolute `(x1, y1, x2, y2)` in pixels.
        score: of each detection; the earlier one wins a tie.
        labels: class of each detection; one that no ground truth has is padding.
        target: boxes of the ground truths, the same.
        target_labels: class of each ground truth; one that no detection has is padding.
        ignored: ground truths that are neither to be found nor to be missed, such as difficult ones; by default none.
        crowd: regions that are ignored, too, and that any number of detections may take; they fit by the part of them that lies inside. By
            default none.
        threshold: IoU that a match must have, in (0, 1].

    Returns:
        For each detection the index of a ground truth, -1 for a false alarm, -2 if it took an ignored one; and its IoU with what it took,
        or 0. Of ground truths that fit alike, the later one is taken. No gradient passes through.

    Raises:
        ValueError: the shapes do not fit, or `threshold` is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"match_detections: `threshold` is {threshold}; expected a number in (0, 1]")
    # Columns are the ground truths from the last to the first, so that the later one wins a tie, and behind them to take nothing.
    pred, target = widen(pred.detach())[..., :, None, :], widen(target.detach()).flip(-2)[..., None, :, :]
    iou = box_iou(pred, target)
    if crowd is None:
        shared = torch.zeros_like(target_labels, dtype=torch.bool)
    else:
        shared = crowd.flip(-1)
        iou = torch.where(shared[..., None, :], safe_divide(box_intersection(pred, target), box_area(pred)), iou)
    ignored = shared if ignored is None else shared | ignored.flip(-1)
    fits = (labels[..., :, None] == target_labels.flip(-1)[..., None, :]) & (iou >= threshold)
    value = torch.where(ignored[..., None, :], LAST_RESORT * iou, iou).masked_fill(~fits, -1)
    iou, value, ignored, shared = pad(iou, (0, 1)), pad(value, (0, 1)), pad(ignored, (0, 1)), pad(shared, (0, 1), value=True)
    place, (n, m) = descending_rank(score), fits.shape[-2:]

    def choose_again(choice: Tensor) -> Tensor:
        first = torch.full_like(shared, n, dtype=torch.int64).scatter_reduce(-1, choice, place, "amin").masked_fill(shared, n)
        return value.masked_fill(place[..., :, None] > first[..., None, :], -1).argmax(-1)

    def goes_on(choice: Tensor, before: Tensor) -> Tensor:
        return (choice != before).any()

    choice, looks = value.argmax(-1), host_may_look(value)
    if torch.compiler.is_compiling():
        again = while_loop(goes_on, lambda new, _: (choose_again(new), new.clone()), (choice, choice - 1))  # type: ignore[no-untyped-call]
        choice = again[0]
    else:
        for _ in range(min(n - 1, m)):
            before, choice = choice, choose_again(choice)
            if looks and choice.equal(before):
                break
    truth = (m - 1 - choice).masked_fill(ignored.gather(-1, choice), IGNORED)
    return truth, iou.gather(-1, choice[..., None]).squeeze(-1)
