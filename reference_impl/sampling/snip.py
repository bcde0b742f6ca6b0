"""Scale normalization for image pyramids (SNIP): Singh and Davis, CVPR 2018."""

from jaxtyping import Bool, Float
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.matching import best_overlaps
from reference_impl.ops.numerics import widen

__all__ = ["snip", "snip_ignored_anchors"]


@checked
def snip(
    boxes: Float[Tensor, "*batch n 4"], size_range: Float[Tensor, "*batch 2"], valid: Bool[Tensor, "*batch n"] | None = None
) -> Float[Tensor, "*batch n"]:
    r"""Keeps the boxes that have about the size for which the network is trained, at the resolution at which it sees the image.

    $$ w_i = [l \le \sqrt{A(B_i)} \le u] $$

    An image is shown at several resolutions, each with a range of its own; together the ranges leave no size out. The rule is the same for
    ground truths, for the proposals that the second stage is trained on, and, with wider ranges, for the detections at inference, which are
    then joined over the resolutions by soft suppression. For the anchors of the first stage there is `snip_ignored_anchors`.

    In the configuration of SNIPER the ranges are 0 to 80, 32 to 150 and from 120 on in training and 0 to 90, 32 to 180 and from 75 on in
    inference, in pixels of the image as it was before it was resized to 1400, 800 and 512 pixels.

    Args:
        boxes: $B_i$, of area $A(B_i)$, absolute `(x1, y1, x2, y2)` in pixels.
        size_range: $l$ and $u$ at the resolution of each image, in the same pixels; $u$ may be infinite.
        valid: the boxes that are no padding; by default all.

    Returns:
        1 for each box in the range and 0 for every other.

    Raises:
        ValueError: the shapes do not fit together.
    """
    inside = _is_in_range(boxes, size_range)
    return inside if valid is None else inside * valid


@checked
def snip_ignored_anchors(
    anchors: Float[Tensor, "*batch n 4"],
    boxes: Float[Tensor, "*batch m 4"],
    size_range: Float[Tensor, "*batch 2"],
    valid: Bool[Tensor, "*batch m"] | None = None,
    *,
    threshold: float = 0.3,
) -> Bool[Tensor, "*batch n"]:
    r"""Takes the anchors out that lie on an object of the wrong size: it is neither to be found here nor to be background.

    $$ \mathrm{ignored}_i = \Big[\max_{j : g_j \text{ out of range}} \mathrm{IoU}(a_i, g_j) > \theta\Big] $$

    An anchor is ignored even if it stands for a ground truth in range. The others are labelled with the ground truths in range alone:
    `match(anchors, boxes, snip(boxes, size_range, valid) > 0).masked_fill(ignored, IGNORED)`, by `ops.matching`.

    Args:
        anchors: $a_i$, absolute `(x1, y1, x2, y2)` in pixels.
        boxes: ground truths $g_j$, the same.
        size_range: lowest and highest size at the resolution of each image, in the same pixels.
        valid: which of `boxes` are no padding; by default all.
        threshold: IoU $\theta$ above which an anchor is taken out.

    Returns:
        Whether each anchor is ignored.

    Raises:
        ValueError: the shapes do not fit together.
    """
    outside = _is_in_range(boxes, size_range) == 0
    return best_overlaps(anchors, boxes, outside if valid is None else outside & valid).iou > threshold


def _is_in_range(boxes: Tensor, size_range: Tensor) -> Tensor:
    """1 or 0 for each box."""
    x1, y1, x2, y2 = widen(boxes.detach()).unbind(-1)
    size, size_range = (x2 - x1).clamp_min_(0).mul_((y2 - y1).clamp_min_(0)).sqrt_(), widen(size_range)
    return size.clamp(size_range[..., :1], size_range[..., 1:]).eq_(size)
