"""Objectness prior: Kong, Sun, Yao, Liu, Lu and Chen, CVPR 2017 (RON)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen
from reference_impl.ops.select import take

__all__ = ["objectness_prior"]


@checked
def objectness_prior(
    objectness: Float[Tensor, "*batch n"],
    positive: Bool[Tensor, "*batch n"],
    negative: Bool[Tensor, "*batch n"],
    noise: Float[Tensor, "*batch n"] | None = None,
    *,
    threshold: float = 0.03,
    ratio: float = 3,
    without_positives: int = 256,
) -> Float[Tensor, "*batch n"]:
    r"""Trains the detector only where a learned prior sees an object, on all positives there and a few negatives drawn at random.

    $$ \mathcal{P}' = \{i \in \mathcal{P} : o_i \ge o_p\}, \qquad
    \mathcal{N}' \subset \{i \in \mathcal{N} : o_i \ge o_p\}, \quad |\mathcal{N}'| \le r |\mathcal{P}'| $$

    Boxes below the threshold are ignored, whatever their label. The negatives are drawn uniformly. Where no positive is left, $N_0$
    negatives are drawn. The authors' code counts over one level of the feature pyramid and all images of the mini-batch: put those in one
    set to do the same. The prior learns from the same boxes by a loss of its own.

    Args:
        objectness: prior $o_i$ of each box, in [0, 1].
        positive: the boxes with an object.
        negative: the boxes without.
        noise: uniform in [0, 1), orders the negatives (highest first); a fresh draw by default.
        threshold: prior $o_p$ from which on a box takes part.
        ratio: number $r$ of negatives for each positive.
        without_positives: number $N_0$ of negatives where no positive reaches the threshold.

    Returns:
        1 for each chosen box and 0 for every other.
    """
    objectness = widen(objectness.detach())
    noise = torch.rand_like(objectness) if noise is None else noise
    likely = objectness >= threshold
    positive = positive & likely
    wanted = positive.sum(-1, keepdim=True) * ratio
    wanted.masked_fill_(wanted.logical_not(), without_positives)
    return take(noise, negative & likely, wanted).logical_or_(positive).to(objectness)
