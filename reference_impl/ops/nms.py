"""Greedy non-maximum suppression, by any similarity of two boxes, and that of a detector: class by class."""

from collections.abc import Callable
from itertools import product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from reference_impl.ops.boxes import box_area, box_iou
from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import host_may_look
from reference_impl.ops.ranks import descending_order, descending_rank

__all__ = ["nms", "nms_per_class"]

Discards = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

BLOCK = 256


@checked
def nms(
    boxes: Float[Tensor, "*batch n 4"],
    scores: Float[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    group: Int[Tensor, "*batch n"] | None = None,
    *,
    limit: int,
    threshold: float = 0.5,
    similarity: Callable[[Tensor, Tensor], Tensor] = box_iou,
) -> Bool[Tensor, "*batch n"]:
    """Keeps the box with the highest score, discards those too similar to it, and so on with what is left, `limit` times.

    A discarded box discards none itself. Memory grows with n, not with its square. On the CPU blocks of an image's boxes follow each other,
    best first, until enough are kept. On a device each round keeps one box, in a pass over all of them; the host never waits, so the rounds
    go on when no box is left. Compiled, the rounds are one loop in the graph, which ends with the last box because it does look.

    Args:
        boxes: absolute `(x1, y1, x2, y2)`.
        scores: which box goes first; the earlier box wins a tie.
        valid: the boxes that take part; by default all.
        group: class of each box; boxes of different groups do not discard each other. By default all are of one.
        limit: number of boxes to keep at most; the number of boxes is no limit.
        threshold: similarity above which a box is discarded.
        similarity: symmetric elementwise function of two sets of boxes that broadcast, as those of `ops.boxes`.

    Returns:
        Whether each box is kept.
    """
    boxes = boxes.detach()
    valid = torch.ones_like(scores, dtype=torch.bool) if valid is None else valid
    group = torch.zeros_like(valid, dtype=torch.int64) if group is None else group
    if valid.shape[-1] == 0:
        return torch.zeros_like(valid)

    def discards(box: Tensor, its_group: Tensor, other: Tensor, other_group: Tensor) -> Tensor:
        return (similarity(box, other) > threshold) & (its_group == other_group)

    if not host_may_look(valid):
        return _by_rounds(boxes, valid, group, descending_rank(scores), limit, discards)
    kept = torch.zeros_like(valid)
    for image in product(*map(range, valid.shape[:-1])):
        order = descending_order(scores[image], valid[image])[: int(valid[image].sum())]
        kept[image][_by_blocks(boxes[image], group[image], order, limit, discards)] = True
    return kept


def _by_blocks(boxes: Tensor, group: Tensor, order: Tensor, limit: int, discards: Discards) -> Tensor:
    """Which boxes of one image are kept: what those kept before do not discard of a block is compared with itself."""

    def table(some: Tensor, others: Tensor) -> Tensor:
        return discards(boxes[some, None], group[some, None], boxes[others], group[others])

    kept = order[:0]
    for start in range(0, len(order), BLOCK):
        if len(kept) >= limit:
            break
        block = order[start : start + BLOCK]
        left = block[~table(kept, block).any(0)]
        kept = torch.cat((kept, left[_undiscarded(table(left, left).triu(1))]))
    return kept[:limit]


def _undiscarded(discards: Tensor) -> Tensor:
    """The boxes that none before them of the same kind discards: guesses, each right for one box more, until nothing changes."""
    kept = discards.new_ones(len(discards))
    guess = ~kept
    while not kept.equal(guess):
        guess = kept
        kept = ~(discards & guess[:, None]).any(0)
    return kept


def _by_rounds(boxes: Tensor, valid: Tensor, group: Tensor, place: Tensor, limit: int, discards: Discards) -> Tensor:
    """The box with the first place of those left is kept, and so on."""

    def keep_one(kept: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        index = place.masked_fill(~left, place.shape[-1]).argmin(-1, keepdim=True)
        best = torch.zeros_like(left).scatter(-1, index, left.gather(-1, index))
        box = boxes.gather(-2, index[..., None].expand(*index.shape, 4))
        return kept | best, left & ~best & ~discards(box, group.gather(-1, index), boxes, group)

    def goes_on(kept: Tensor, left: Tensor) -> Tensor:
        return left.any() & (kept.sum(-1) < limit).all()

    state = torch.zeros_like(valid), valid.clone()
    if torch.compiler.is_compiling():
        state = while_loop(goes_on, keep_one, state)  # type: ignore[no-untyped-call]
    else:
        for _ in range(min(limit, valid.shape[-1])):
            state = keep_one(*state)
    return state[0]


@checked
def nms_per_class(
    scores: Float[Tensor, "*batch n c"], boxes: Float[Tensor, "*batch n 4"], *, lowest_score: float, threshold: float, limit: int
) -> Bool[Tensor, "*batch n c"]:
    """Keeps the best boxes of each class that overlap no better one of that class.

    Args:
        scores: one for each class and box.
        boxes: absolute `(x1, y1, x2, y2)`, the same for all classes; one without area is not kept.
        lowest_score: nor is one of a lower score.
        threshold: IoU above which a box is discarded for a better one.
        limit: how many to keep at most, of all classes together.

    Returns:
        Whether each box is kept for each class.
    """
    place = boxes[..., None, :].expand(*scores.shape, 4).flatten(-3, -2)
    label = torch.arange(scores.shape[-1], device=scores.device).expand(scores.shape)
    candidate = (scores >= lowest_score) & (box_area(boxes) > 0)[..., None]
    kept = nms(place, scores.flatten(-2), candidate.flatten(-2), label.flatten(-2), limit=limit, threshold=threshold)
    return kept.view(scores.shape)
