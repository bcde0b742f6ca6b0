"""Random sampling: Ren, He, Girshick and Sun, TPAMI 2017 (Faster R-CNN)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen
from reference_impl.ops.select import taker

__all__ = ["random_sampling"]


@checked
def random_sampling(
    positive: Bool[Tensor, "*batch n"],
    negative: Bool[Tensor, "*batch n"],
    noise: Float[Tensor, "*batch n"] | None = None,
    *,
    size: int = 256,
    positive_fraction: float = 0.5,
) -> Float[Tensor, "*batch n"]:
    r"""Draws a mini-batch of fixed size with up to a fixed share of positives, so that the many negatives do not drown them.

    $$ |\mathcal{P}'| = \min(\lfloor \phi B \rfloor, |\mathcal{P}|), \qquad |\mathcal{N}'| = \min(B - |\mathcal{P}'|, |\mathcal{N}|) $$

    of the positives $\mathcal{P}$ and of the negatives $\mathcal{N}$ are drawn, uniformly and without replacement: places that positives
    leave open go to negatives, never the other way round. The defaults are those of the region proposal network; the second stage has
    $B = 64$ and $\phi = 1/4$ for each of two images.

    Args:
        positive: the boxes with an object.
        negative: the boxes without.
        noise: uniform in [0, 1), the highest are drawn; a fresh draw by default.
        size: number $B$ of boxes to draw.
        positive_fraction: share $\phi$ of positives at most, in [0, 1].

    Returns:
        1 for each drawn box and 0 for every other.
    """
    noise = torch.rand(positive.shape, device=positive.device) if noise is None else widen(noise)
    draw = taker(noise)
    positives = draw(positive, int(size * positive_fraction))
    negatives = draw(negative, size - positives.sum(-1, keepdim=True), size)
    return (positives | negatives).to(noise)
