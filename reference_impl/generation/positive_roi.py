"""Positive RoI (pRoI) generator and its bounding box generator: Oksuz, Cam, Akbas and Kalkan, WACV 2020."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from reference_impl.ops.boxes import box_size, clip_boxes
from reference_impl.ops.checked import checked
from reference_impl.ops.draw import inverse_cdf
from reference_impl.ops.numerics import safe_divide, widen
from reference_impl.ops.repeat import repeated

__all__ = ["bounding_box_generator", "iou_quantile", "positive_roi"]

LOWEST = 0.01
NEWTON_STEPS = 12


@checked
def bounding_box_generator(
    boxes: Float[Tensor, "*batch n 4"], iou: Float[Tensor, "*batch n"], noise: Float[Tensor, "*batch n 5"] | None = None
) -> Float[Tensor, "*batch n 4"]:
    r"""Draws for each box another one that has at least a wanted IoU with it: first one corner, then the opposite one.

    The box $B$ is mapped to the unit square, which changes no IoU. A corner $(x_1, y_1)$ can still be completed to a box of IoU $T$ or more
    if the best completion, the opposite corner of $B$ itself, has it. One is drawn uniformly from the region of these corners, then the
    opposite one from the region that the first leaves to it:

    $$ (x_1, y_1) \sim \mathcal U\{\mathrm{IoU}([x_1, y_1, 1, 1], B) \ge T\}, \qquad
    (x_2, y_2) \sim \mathcal U\{\mathrm{IoU}([x_1, y_1, x_2, y_2], B) \ge T\} $$

    Which corner comes first is random. The regions are bounded by hyperbolas, so their areas left of a given $x$ have a closed form, which
    Newton's method inverts; so no draw is rejected. No gradient passes through.

    Args:
        boxes: the boxes $B$ to overlap, absolute `(x1, y1, x2, y2)` in pixels.
        iou: the wanted $T$ in (0, 1]; below 0.01 it counts as 0.01.
        noise: x and y of the first corner, x and y of the second, and which one is first (top left below 1/2), each uniform in [0, 1);
            a fresh draw by default. The first four are shares of an area, so that other distributions of `noise` give other spatial
            distributions. Where the fourth is 0 the IoU is exactly $T$.

    Returns:
        One box for each. Its coordinates may be negative or beyond the image; `positive_roi` cuts it off there.

    Raises:
        ValueError: the shapes do not fit together.
    """
    boxes, wanted = widen(boxes.detach()), widen(iou.detach())[..., None].clamp(LOWEST, 1)
    noise = (wanted.new_empty(*wanted.shape[:-1], 5).uniform_() if noise is None else noise).to(wanted.dtype)
    first = _opposite_corner(torch.zeros_like(boxes[..., :2]), wanted, noise[..., 0:2])
    second = _opposite_corner(-first, wanted, noise[..., 2:4])
    top_left_first = noise[..., 4:] < 0.5
    inner = torch.where(top_left_first, torch.cat((-first, second), -1), torch.cat((-second, first), -1))
    size = box_size(boxes)
    return boxes + inner * torch.cat((size, size), -1)


@checked
def iou_quantile(
    share: Float[Tensor, "*batch n"],
    weight: Float[Tensor, "*batch bins"] | None = None,
    *,
    lowest: float = 0.5,
    highest: float = 0.95,
) -> Float[Tensor, "*batch n"]:
    r"""Turns numbers that are uniform in [0, 1) into wanted IoUs with a distribution given by weights of bins.

    $$ P(T \in \text{bin } k) \propto v_k $$

    The bins are equal parts of [`lowest`, 1], and $T$ is uniform in a bin. No gradient passes through.

    Args:
        share: which part of the distribution lies below the IoU; a fresh `torch.rand` draws from it.
        weight: $v_k \ge 0$; equal ones by default, which is the uniform distribution.
        lowest: $T_{min}$, smallest IoU to ask for, the threshold of a positive, in (0, 1].
        highest: $T_{max}$, larger wanted IoUs are lowered to this.

    Returns:
        One wanted IoU for each number.

    Raises:
        ValueError: the shapes do not fit together.
    """
    position = widen(share.detach())
    if weight is not None:
        bin_of, within = inverse_cdf(weight.detach().to(position.dtype), position)
        position = (bin_of + within) / weight.shape[-1]
    return (lowest + (1 - lowest) * position).clamp(max=highest)


@checked
def positive_roi(
    boxes: Float[Tensor, "*batch m 4"],
    labels: Int[Tensor, "*batch m"],
    iou: Float[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch m"] | None = None,
    class_weight: Float[Tensor, "*batch c"] | None = None,
    noise: Float[Tensor, "*batch n 6"] | None = None,
    image_size: Float[Tensor, "*batch 2"] | None = None,
) -> tuple[Float[Tensor, "*batch n 4"], Int[Tensor, "*batch n"]]:
    r"""Makes the positives of a batch, with a wanted distribution of class, IoU and place, instead of taking what the proposals offer.

    $$ P(\text{truth } i) \propto \frac{w_{c_i}}{|\{j : c_j = c_i\}|}, \qquad \hat B \sim \text{bounding box generator}(B_i, T) $$

    Each class that is present has its share $w_c$, equal ones by default, and its ground truths split it. The authors train both branches
    of the second stage with these boxes as the positives of a mini-batch, 8 of 32, and fill it with proposals that are negative, drawn at
    random: `random_sampling` without positives. No gradient passes through.

    Args:
        boxes: ground truths $B$, absolute `(x1, y1, x2, y2)` in pixels.
        labels: their classes $c$; the background gets no box if `class_weight` is given.
        iou: the wanted $T$, one for each box to make, as `iou_quantile` gives them; in any order that has nothing to do with the classes.
        valid: the ground truths to use; all by default.
        class_weight: $w_c \ge 0$ of each of the `c` foreground classes; equal by default.
        noise: first what picks the ground truth (in strata, so that counts are within two of their expectation), then the five numbers of
            `bounding_box_generator`, all uniform in [0, 1); a fresh draw by default.
        image_size: width and height in pixels; the boxes are cut off there, or not at all if it is not given. As ground truths lie inside,
            a cut leaves the IoU as it is or raises it.

    Returns:
        The boxes and the index of each one's ground truth, in ascending order. An image without valid ground truths has boxes without area
        and index 0. Coordinates may be negative.

    Raises:
        ValueError: the shapes do not fit together.
    """
    boxes, iou = widen(boxes.detach()), widen(iou.detach())
    noise = (iou.new_empty(*iou.shape, 6).uniform_() if noise is None else noise).to(boxes.dtype)
    valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
    alike = ((labels[..., :, None] == labels[..., None, :]) & valid[..., None, :]).sum(-1).to(boxes.dtype)
    wanted = torch.ones_like(alike) if class_weight is None else pad(class_weight.to(boxes.dtype), (0, 1)).gather(-1, labels)
    share = safe_divide(wanted, alike) * valid
    n = iou.shape[-1]
    strata = (torch.arange(n, device=iou.device) + noise[..., 0]) / max(n, 1)
    truth, _ = inverse_cdf(share, strata)
    chosen = pad(boxes, (0, 0, 0, 1)).gather(-2, truth[..., None].expand(*truth.shape, 4))
    drawn = bounding_box_generator(chosen, iou, noise[..., 1:])
    if image_size is not None:
        drawn = clip_boxes(drawn, image_size.detach()[..., None, :])
    return drawn * valid.any(-1)[..., None, None], truth


def _opposite_corner(shift: Tensor, wanted: Tensor, noise: Tensor) -> Tensor:
    """Where the bottom-right corner lies relative to that of the unit square, if the top-left one is shifted by `shift`.

    With top left at (a, b) and bottom right at (1 + z, 1 + t), the IoU is at least T where (1 + T) I - T (1 + A) >= 0; I is the area of
    the intersection, A that of the box. For a given z this is an interval of t.
    """
    a, b = shift[..., :1], shift[..., 1:]
    cut_x, cut_y = 1 - a.clamp(min=0), 1 - b.clamp(min=0)
    width, height = 1 - a, 1 - b
    over_x, over_y = cut_x - width, cut_y - height
    slack = ((1 + wanted) * cut_x * cut_y - wanted * (1 + width * height)).clamp(min=0)
    lowest = -slack / ((1 + wanted) * cut_y - wanted * height)
    highest = slack / (wanted * height)
    rest = (1 + wanted) * cut_x - wanted * width
    by_height = (1 + wanted) * cut_y

    def interval(z: Tensor) -> tuple[Tensor, Tensor]:
        """Lowest and highest t."""
        shared = (1 + wanted) * (cut_x + z.clamp(max=0))
        own = wanted * (width + z)
        return (wanted - shared * over_y) / (shared - own) - height, (shared * cut_y - wanted) / own - height

    def area(z: Tensor) -> Tensor:
        """Of the region between the square's right border and z; negative to the left of it."""
        wide, narrow = (z / width).log1p(), (z * torch.where(z < 0, 1, -wanted) / rest).log1p()
        right = ((by_height * cut_x - wanted) * wide + (wanted - (1 + wanted) * cut_x * over_y) * narrow) / wanted
        left = (by_height / wanted + (1 + wanted) * over_y) * z
        left = left + (by_height * over_x / wanted - 1) * wide - wanted * (1 + (1 + wanted) * over_y * over_x) * narrow
        return torch.where(z < 0, left, right)

    start, end = area(lowest), area(highest)
    target = start + noise[..., :1] * (end - start)

    def newton(z: Tensor) -> tuple[Tensor]:
        low, high = interval(z)
        return (torch.maximum(torch.minimum(z - safe_divide(area(z) - target, high - low), highest), lowest),)

    (z,) = repeated(newton, (torch.zeros_like(target),), NEWTON_STEPS)
    low, high = interval(z)
    return torch.cat((z, low + noise[..., 1:] * (high - low)), -1)
