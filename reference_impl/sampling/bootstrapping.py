"""Bootstrapping of hard negatives: Rowley, Baluja and Kanade, NIPS 1995."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen
from reference_impl.ops.select import take

__all__ = ["bootstrapping"]


@checked
def bootstrapping(
    score: Float[Tensor, "*batch n"],
    negative: Bool[Tensor, "*batch n"],
    mined: Bool[Tensor, "*batch n"] | None = None,
    noise: Float[Tensor, "*batch n"] | None = None,
    *,
    threshold: float = 0.5,
    size: int = 250,
) -> Float[Tensor, "*batch n"]:
    r"""Lets the negative set grow by negatives that the current classifier takes for an object, whatever else there is in the background.

    $$ \mathcal{N}_{t+1} = \mathcal{N}_t \cup \mathcal{M}_t, \qquad
    \mathcal{M}_t \subseteq \{i \in \mathcal{N} \setminus \mathcal{N}_t : f_t(i) > \theta\}, \quad |\mathcal{M}_t| \le M $$

    This is one round, the step between two trainings: score all negatives by $f_t$, grow the set, train $f_{t+1}$ on all positives and
    the new set, and so on until little is added. The first set is small and drawn at random. What is in the set stays there, even if the
    classifier has learned it.

    Args:
        score: foreground score $f_t$ of each window by the current classifier, in [0, 1].
        negative: the windows $\mathcal{N}$ without an object.
        mined: the negatives $\mathcal{N}_t$ that are in the set already; by default none.
        noise: uniform in [0, 1), orders the false positives (highest first); a fresh draw by default.
        threshold: score $\theta$ above which a negative is a false positive.
        size: number $M$ of false positives to add in a round; with fewer, all are added.

    Returns:
        1 for each negative of the new set $\mathcal{N}_{t+1}$ and 0 for every other window. Positives are always trained on, and not
        among these.
    """
    score = widen(score.detach())
    noise = torch.rand_like(score) if noise is None else noise
    alarms = negative & (score > threshold)
    if mined is None:
        return take(noise, alarms, size).to(score)
    return (mined & negative | take(noise, alarms & ~mined, size)).to(score)
