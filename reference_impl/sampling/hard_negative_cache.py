"""Data-mining of hard negatives with a cache: Felzenszwalb, Girshick, McAllester and Ramanan, TPAMI 2010."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen
from reference_impl.ops.select import take

__all__ = ["hard_negative_cache", "mining_converged"]

# How far beyond the margin a negative still counts as a support vector.
SLACK = 0.0001


@checked
def hard_negative_cache(
    logits: Float[Tensor, "*batch n"],
    negative: Bool[Tensor, "*batch n"],
    cached: Bool[Tensor, "*batch n"] | None = None,
    first: Int[Tensor, "*batch"] | None = None,
    *,
    size: int = 24000,
    threshold: float = -1.002,
) -> Float[Tensor, "*batch n"]:
    r"""Makes room among the negatives of a max-margin classifier, and fills it with others that it gets wrong or nearly so.

    $$ \mathcal{K} = \{i \in \mathcal{D}_t : f_t(i) \ge -1\} \cup \mathrm{top}_{M/2}(f_t, \mathcal{D}_t), \qquad
    \mathcal{D}_{t+1} = \mathcal{K} \cup \mathcal{H}, \quad
    \mathcal{H} \subseteq \{i \in \mathcal{N} \setminus \mathcal{K} : f_t(i) \ge \theta\} $$

    A negative beyond the margin, at a score below -1, has no hinge loss $\max(0, 1 + f)$, so the classifier is the same without it. All
    others stay, or mining would not come to an end; and of the easy ones as many as fill half of the cache. Then the windows are searched
    in their order until the cache is full. This is one round, the step between two trainings on all positives and the cache; the first
    cache may be drawn at random. No gradient passes through.

    Args:
        logits: score $f_t$ of each window by the classifier that was trained on the cache, positive for an object.
        negative: the windows $\mathcal{N}$ without an object.
        cached: the negatives $\mathcal{D}_t$ that it was trained on; by default none.
        first: the window where the search begins, as the one after that where the last search ended; it goes on at the front. By default
            the first one.
        size: $M$, number of negatives that the cache may hold. Only support vectors may exceed it.
        threshold: $\theta$, score from which a window joins, a little below the margin.

    Returns:
        1 for each negative of the new cache $\mathcal{D}_{t+1}$ and 0 for every other window.
    """
    score = widen(logits.detach())
    found = negative & (score >= threshold)
    if cached is None:
        return _in_turn(found, first, size).to(score)
    held = cached & negative
    kept = held & (score >= -1 - SLACK) | take(score, held, size // 2)
    return (kept | _in_turn(found & ~kept, first, size - kept.sum(-1, keepdim=True))).to(score)


def _in_turn(found: Tensor, first: Tensor | None, room: int | Tensor) -> Tensor:
    """As many of the windows that are found as there is room for, from the first one on and then from the front."""
    turn = found.cumsum(-1)
    if first is not None:
        later = torch.arange(found.shape[-1], device=found.device) < first[..., None] % max(found.shape[-1], 1)
        turn = turn - (found & later).sum(-1, keepdim=True) + found.sum(-1, keepdim=True) * later
    return found & (turn <= room)


@checked
def mining_converged(
    objective: Float[Tensor, "*batch"], cached_loss: Float[Tensor, "*batch"], full_loss: Float[Tensor, "*batch"], *, ratio: float = 1.05
) -> Bool[Tensor, "*batch"]:
    r"""Whether the cache stands for all negatives: their loss would hardly add to what training has minimised.

    $$ J - L_{\mathcal{D}} + L_{\mathcal{N}} < \rho\, J $$

    The authors stop if this holds after a search that went through all images.

    Args:
        objective: $J$, the minimum on the cache: loss of positives and cached negatives, and the regulariser.
        cached_loss: $L_{\mathcal{D}}$, the part of the cached negatives.
        full_loss: $L_{\mathcal{N}}$, loss of all negatives, weighted alike.
        ratio: $\rho$.
    """
    objective, cached_loss, full_loss = widen(objective), widen(cached_loss), widen(full_loss)
    return objective - cached_loss + full_loss < ratio * objective
