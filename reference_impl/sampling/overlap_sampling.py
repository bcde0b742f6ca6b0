"""Overlap sampler: Chen, Luo, Wu, Chen and Peng, WACV 2020."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from reference_impl.ops.boxes import box_iou
from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import safe_log, widen
from reference_impl.ops.select import take

__all__ = ["overlap_sampling", "overlap_with_positives"]


@checked
def overlap_with_positives(boxes: Float[Tensor, "*batch n 4"], positive: Bool[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    """The property that `overlap_sampling` goes by: how much each box shares with the positive that it overlaps most.

    All $n^2$ pairs are held in memory.

    Args:
        boxes: the candidates of an image, absolute `(x1, y1, x2, y2)` in pixels.
        positive: those that are assigned to an object.

    Returns:
        The highest IoU of each box with a positive, 0 if there is none; 1 for a positive itself. No gradient passes through it.
    """
    boxes = widen(boxes.detach())
    iou = box_iou(boxes[..., :, None, :], boxes[..., None, :, :])
    return pad(torch.where(positive[..., None, :], iou, 0), (0, 1)).amax(-1)


@checked
def overlap_sampling(
    overlap: Float[Tensor, "*batch n"],
    negative: Bool[Tensor, "*batch n"],
    noise: Float[Tensor, "*batch n"] | None = None,
    *,
    num_negatives: int = 384,
) -> Float[Tensor, "*batch n"]:
    r"""Draws negatives that lie beside a positive as often as those that lie far from all of them, few as they are.

    $$ p_i = \frac{1}{2} \cdot \frac{1}{n_{h(i)}} $$

    is the chance that negative $i$ is drawn first. $h(i)$ is the half of the range of overlaps, from the lowest to the highest of the
    negatives, that its overlap lies in; the middle belongs to the lower half; $n_h$ negatives lie in half $h$. If all lie in one half,
    the draw is uniform. Negatives are drawn one after the other in proportion to $p_i$ and not put back, which is what the highest of
    $n_{h(i)} \ln u_i$ do for uniform $u_i$.

    Args:
        overlap: highest IoU of each negative with a positive, in [0, 1], as from `overlap_with_positives`.
        negative: the boxes to draw from.
        noise: $u$, uniform in [0, 1); a fresh draw by default.
        num_negatives: how many to draw; with fewer, all are taken.

    Returns:
        1 for each drawn negative and 0 for every other box. Positives are drawn uniformly, or as another method says.
    """
    overlap = widen(overlap.detach())
    noise = torch.rand_like(overlap) if noise is None else widen(noise.detach())
    # Padded, because an empty set has no minimum and no maximum.
    lowest = pad(overlap.masked_fill(~negative, 1), (0, 1), value=1).amin(-1, keepdim=True)
    highest = pad(overlap.masked_fill(~negative, 0), (0, 1), value=0).amax(-1, keepdim=True)
    near = overlap > (lowest + highest) / 2
    size = torch.where(near, (negative & near).sum(-1, keepdim=True), (negative & ~near).sum(-1, keepdim=True))
    return take(size * safe_log(noise), negative, num_negatives).to(overlap)
