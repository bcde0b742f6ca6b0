"""Retraining on hard examples: Dalal and Triggs, CVPR 2005."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen
from reference_impl.ops.select import take

__all__ = ["hard_example_retraining"]


@checked
def hard_example_retraining(
    logits: Float[Tensor, "*batch n"],
    negative: Bool[Tensor, "*batch n"],
    initial: Bool[Tensor, "*batch n"] | None = None,
    noise: Float[Tensor, "*batch n"] | None = None,
    *,
    threshold: float = 0.0,
    size: int = 109955,
) -> Float[Tensor, "*batch n"]:
    r"""Adds all false positives of a first detector to the random negatives that it was trained on, as far as memory goes.

    $$ \mathcal{N}_1 = \mathcal{N}_0 \cup \mathcal{H}, \qquad \mathcal{H} \subseteq \{i \in \mathcal{N} \setminus \mathcal{N}_0 : f_0(i) >
    \theta\}, \quad |\mathcal{N}_1| \le M $$

    There is one round: the detector $f_1$ that is trained on all objects and $\mathcal{N}_1$ is the last, since further rounds change
    little. The random negatives stay, so that $f_1$ does not forget the easy ones. No gradient passes through.

    Args:
        logits: $f_0$ of each window, the signed distance from the plane of a support vector machine.
        negative: the windows $\mathcal{N}$ without an object.
        initial: the negatives $\mathcal{N}_0$ that $f_0$ was trained on; by default none.
        noise: uniform in [0, 1), orders the hard examples (highest first) if there are too many; a fresh draw by default.
        threshold: $\theta$, above which a negative is a false positive.
        size: $M$, number of negatives that fit into memory. Only the initial ones may exceed it.

    Returns:
        1 for each negative of $\mathcal{N}_1$ and 0 for every other window.
    """
    score = widen(logits.detach())
    noise = torch.rand_like(score) if noise is None else noise
    mistaken = negative & (score > threshold)
    if initial is None:
        return take(noise, mistaken, size).to(score)
    known = initial & negative
    room = (size - known.sum(-1, keepdim=True)).clamp(min=0)
    return (known | take(noise, mistaken & ~known, room)).to(score)
