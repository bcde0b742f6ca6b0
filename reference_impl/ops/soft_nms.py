"""Soft-NMS: Bodla, Singh, Chellappa and Davis, ICCV 2017. A box too similar to a better one loses some of its score, not its place."""

from collections.abc import Callable

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
    that overlaps a kept box.

    The similarities of all pairs are computed once where there are at most 2^24 of them, and otherwise those of each kept box in its turn.
    Off the CPU the host never waits for the device, so there the rounds go on when no box is left, up to the smaller of n and `limit`;
    compiled, the rounds are one loop in the graph, which ends when all is settled.

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
    return _decay(boxes, scores, valid, group, lambda iou: (iou.square() / -sigma).exp(), similarity, lowest_score, limit)


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
    """The state is one number a box: its score while it is left, the negative of it once the box is kept, and so settled."""
    boxes, state = boxes.detach(), widen(scores.detach())
    state = state.clone() if valid is None else state.masked_fill(~valid, 0)
    lowest = max(lowest_score, torch.finfo(state.dtype).tiny)

    n = state.shape[-1]
    if state.numel() == 0:
        return state
    place = torch.arange(n, device=state.device)

    def factors(index: Tensor) -> Tensor:
        """What a box at `index`, `[*batch k]`, does to each score: -1 for its own."""
        best = boxes.gather(-2, index[..., None].expand(*index.shape, 4))
        factor = weight(similarity(best[..., None, :], boxes[..., None, :, :]))
        if group is not None:
            factor = factor.where(group.gather(-1, index)[..., None] == group[..., None, :], 1)
        return factor.masked_fill(index[..., None] == place, -1)

    table = None if torch.compiler.is_compiling() or state.numel() * n > TABLE else factors(place.expand(state.shape)).flatten(0, -2)
    start = n * torch.arange(state.numel() // max(n, 1), device=state.device).view(*state.shape[:-1], 1)

    def keep_one(state: Tensor) -> tuple[Tensor]:
        index = state.argmax(-1, keepdim=True)
        factor = factors(index).squeeze(-2) if table is None else table.index_select(0, (index + start).flatten()).view(state.shape)
        return (torch.minimum(state, state * factor),)

    def goes_on(state: Tensor) -> Tensor:
        highest = state.amax(-1, keepdim=True)
        return ((highest >= lowest) & ((-state >= highest).sum(-1, keepdim=True) < limit)).any()

    if torch.compiler.is_compiling():
        (state,) = while_loop(goes_on, keep_one, (state,))  # type: ignore[no-untyped-call]
    else:
        for done in range(min(limit, n)):
            if done % 8 == 0 and state.device.type == "cpu" and not goes_on(state):
                break
            (state,) = keep_one(state)
    kept = (-state).clamp(min=0)
    return kept.masked_fill((kept < lowest) | (descending_rank(kept) >= limit), 0)
