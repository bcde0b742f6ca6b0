"""Soft-NMS: Bodla, Singh, Chellappa and Davis, ICCV 2017. A box too similar to a better one loses some of its score, not its place."""

import math
from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from reference_impl.ops.boxes import box_iou
from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen
from reference_impl.ops.ranks import descending_rank

__all__ = ["linear_soft_nms", "soft_nms"]

Function = Callable[[Tensor], Tensor]
Similarity = Callable[[Tensor, Tensor], Tensor]

TABLE = 2**24


@checked
def soft_nms(
    boxes: Float[Tensor, "*batch n 4"],
    scores: Float[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    group: Int[Tensor, "*batch n"] | None = None,
    *,
    limit: int,
    sigma: float = 0.5,
    lowest_score: float = 0.001,
    similarity: Similarity = box_iou,
) -> Float[Tensor, "*batch n"]:
    r"""Keeps the box with the highest score, lowers the scores of all others by how similar they are to it, and so on with what is left.

    $$ s_i \leftarrow s_i \exp\left(-\frac{\mathrm{IoU}(b, b_i)^2}{\sigma}\right) $$

    for every box $b$ kept before $b_i$. The limits are the scores as they were for a large $\sigma$, and for a small one suppression of all
    that overlaps a kept box. The authors' code exchanges boxes as it goes, so that a later box may win a tie there, and counts pixels, so
    that a box is one wider and higher.

    The similarities of all pairs are computed once where there are at most 2^24 of them, and otherwise those of each kept box in its turn.
    The CPU takes one image after the other. Off the CPU the host never waits for the device, so there the rounds go on when no box is left,
    up to the smaller of n and `limit`; compiled, the rounds are one loop in the graph, which ends when all is settled.

    Args:
        boxes: absolute `(x1, y1, x2, y2)`.
        scores: at least 0; the earlier box wins a tie.
        valid: the boxes that take part; by default all.
        group: class of each box; boxes of different groups leave each other alone. By default all are of one.
        limit: number of boxes to keep at most; the number of boxes is no limit.
        sigma: $\sigma$, above 0: the larger, the less a score is lowered.
        lowest_score: a box whose score falls below it is discarded and lowers none itself.
        similarity: symmetric elementwise function of two sets of boxes that broadcast, from 0 to 1.

    Returns:
        The lowered score of each box that is kept, and 0 for every other. It has no gradient.
    """
    # A power of 2 takes a third of the time of one of e.
    rate = -math.log2(math.e) / sigma
    return _decay(boxes, scores, valid, group, lambda iou: iou.square().mul_(rate).exp2_(), similarity, lowest_score, limit)


@checked
def linear_soft_nms(
    boxes: Float[Tensor, "*batch n 4"],
    scores: Float[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    group: Int[Tensor, "*batch n"] | None = None,
    *,
    limit: int,
    threshold: float = 0.3,
    lowest_score: float = 0.001,
    similarity: Similarity = box_iou,
) -> Float[Tensor, "*batch n"]:
    r"""The same with a decay that is not smooth: boxes similar up to a threshold leave each other alone.

    $$ s_i \leftarrow s_i \begin{cases} 1 & \mathrm{IoU}(b, b_i) \le \theta \\ 1 - \mathrm{IoU}(b, b_i) & \text{else} \end{cases} $$

    The authors' code has this bound, too; mmcv lowers a score at the threshold itself.

    Args:
        boxes: absolute `(x1, y1, x2, y2)`.
        scores: at least 0; the earlier box wins a tie.
        valid: the boxes that take part; by default all.
        group: class of each box; boxes of different groups leave each other alone. By default all are of one.
        limit: number of boxes to keep at most; the number of boxes is no limit.
        threshold: $\theta$, similarity above which a score is lowered.
        lowest_score: a box whose score falls below it is discarded and lowers none itself.
        similarity: symmetric elementwise function of two sets of boxes that broadcast, from 0 to 1.

    Returns:
        The lowered score of each box that is kept, and 0 for every other. It has no gradient.
    """
    return _decay(boxes, scores, valid, group, lambda iou: torch.where(iou > threshold, 1 - iou, 1), similarity, lowest_score, limit)


def _decay(
    boxes: Tensor,
    scores: Tensor,
    valid: Tensor | None,
    group: Tensor | None,
    weight: Function,
    similarity: Similarity,
    lowest_score: float,
    limit: int,
) -> Tensor:
    boxes, scores = boxes.detach(), widen(scores.detach())
    scores = scores.clone() if valid is None else scores.masked_fill(~valid, 0)
    lowest = max(lowest_score, torch.finfo(scores.dtype).tiny)

    def effects(index: Tensor, boxes: Tensor = boxes, group: Tensor | None = group) -> Tensor:
        """What each box at `index`, `[*batch k]`, does to each score, `[*batch k n]`: a factor, -1 for its own."""
        chosen = boxes.gather(-2, index[..., None].expand(*index.shape, 4))
        factor = weight(similarity(chosen[..., None, :], boxes[..., None, :, :]))
        if group is not None:
            factor = factor.where(group.gather(-1, index)[..., None] == group[..., None, :], 1)
        return factor.scatter_(-1, index[..., None], -1)

    if scores.numel() == 0:
        return scores
    if scores.device.type != "cpu" or torch.compiler.is_compiling():
        return _by_rounds(scores, effects, lowest, limit)
    for image in product(*map(range, scores.shape[:-1])):
        own = partial(effects, boxes=boxes[image], group=None if group is None else group[image])
        scores[image] = _one_by_one(scores[image], own, lowest, limit)
    return scores


def _one_by_one(scores: Tensor, effects: Function, lowest: float, limit: int) -> Tensor:
    """Of one image, `[n]`, where reading a number costs nothing. What is left is overwritten: a kept box counts less than nothing."""
    place = torch.arange(len(scores), device=scores.device)
    rows = effects(place).unbind() if len(scores) ** 2 <= TABLE else None
    lowest = scores.new_tensor(lowest).item()
    kept: dict[int, float] = {}
    for _ in range(limit):
        best = int(scores.argmax())
        score = float(scores[best])
        if score < lowest:
            break
        kept[best] = score
        scores.mul_(rows[best] if rows else effects(place[best : best + 1])[0])
    return torch.zeros_like(scores).index_put_((place.new_tensor(list(kept)),), scores.new_tensor(list(kept.values())))


def _by_rounds(scores: Tensor, effects: Function, lowest: float, limit: int) -> Tensor:
    """Of all images at once. The state is one number a box: its score while it is left, the negative of it once the box is kept."""
    n = scores.shape[-1]
    compiling = torch.compiler.is_compiling()
    table = None if compiling or scores.numel() * n > TABLE else effects(torch.arange(n, device=scores.device).expand(scores.shape))

    def keep_one(state: Tensor) -> tuple[Tensor]:
        index = state.argmax(-1, keepdim=True)
        factor = effects(index) if table is None else table.gather(-2, index[..., None].expand(*index.shape, n))
        return (torch.minimum(state, state * factor.squeeze(-2)),)

    def goes_on(state: Tensor) -> Tensor:
        highest = state.amax(-1, keepdim=True)
        return ((highest >= lowest) & ((-state >= highest).sum(-1, keepdim=True) < limit)).any()

    state = scores
    if compiling:
        (state,) = while_loop(goes_on, keep_one, (state,))  # type: ignore[no-untyped-call]
    else:
        for _ in range(min(limit, n)):
            (state,) = keep_one(state)
    kept = (-state).clamp(min=0)
    return kept.masked_fill((kept < lowest) | (descending_rank(kept) >= limit), 0)
