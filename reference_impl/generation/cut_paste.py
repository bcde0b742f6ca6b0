"""Cut, Paste and Learn: Dwibedi, Misra and Hebert, ICCV 2017."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from reference_impl.ops.boxes import box_area, box_intersection, box_size, mask_box
from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import safe_divide, widen

__all__ = ["blurred_mask", "cut_paste", "hides_another", "random_shift"]


@checked
def cut_paste(
    image: Float[Tensor, "*batch c n m"],
    source: Float[Tensor, "*batch k c n m"],
    mask: Bool[Tensor, "*batch k n m"],
    shift: Int[Tensor, "*batch k 2"],
    alpha: Float[Tensor, "*batch k n m"] | None = None,
) -> tuple[Float[Tensor, "*batch c n m"], Float[Tensor, "*batch k 4"], Float[Tensor, "*batch k"]]:
    r"""Puts cut-out objects into an image and gives the boxes for free: more positives, at places where the data set has none.

    $$ I \leftarrow (1 - \alpha_k)\, I + \alpha_k\, S_k \qquad \text{for } k = 1, 2, \dots $$

    Each object is moved by a whole number of pixels; what leaves the image is cut off. A later object hides an earlier one. The paper
    pastes the same scene several times, each time with another $\alpha$ but the same boxes, so that a detector cannot tell objects by their
    edges: the mask itself, or a blurred one (`blurred_mask`).

    Args:
        image: the background, `n` rows of `m` pixels.
        source: an image for each object, with the object at the place of its mask.
        mask: the pixels of the object.
        shift: how far each object is moved, in pixels to the right and downwards; may be negative.
        alpha: how much of the object a pixel has, in [0, 1], in `source`; by default the mask.

    Returns:
        The image; the box of each object's pixels in it, `(x1, y1, x2, y2)`, where pixel `i` reaches from `i` to `i + 1`, hidden pixels
        included; and the share of its pixels that lie in the image and are not hidden. The box of an object outside is (0, 0, 0, 0).

    Raises:
        ValueError: the shapes do not fit together.
    """
    image, source = widen(image), widen(source)
    n, m = mask.shape[-2:]
    alpha = mask.to(image.dtype) if alpha is None else widen(alpha)
    y = torch.arange(n, device=mask.device) - shift[..., 1:]
    x = torch.arange(m, device=mask.device) - shift[..., :1]
    inside = ((y >= 0) & (y < n))[..., :, None] & ((x >= 0) & (x < m))[..., None, :]
    origin = (y.clamp(0, max(n - 1, 0))[..., :, None] * m + x.clamp(0, max(m - 1, 0))[..., None, :]).flatten(-2)

    moved = mask.flatten(-2).gather(-1, origin).view(mask.shape) & inside
    opacity = (alpha.flatten(-2).gather(-1, origin).view(mask.shape) * inside)[..., None, :, :]
    content = source.flatten(-2).gather(-1, origin[..., None, :].expand(*source.shape[:-2], n * m)).view(source.shape)
    uncovered = pad((1 - opacity).flip(-4).cumprod(-4).flip(-4), (0, 0, 0, 0, 0, 0, 0, 1), value=1.0)
    pasted = image * uncovered[..., 0, :, :, :] + (opacity * content * uncovered[..., 1:, :, :, :]).sum(-4)

    later = moved.flip(-3).cumsum(-3).flip(-3) - moved.long()
    visible = safe_divide((moved & (later == 0)).sum((-2, -1)).to(image.dtype), mask.sum((-2, -1)).to(image.dtype))
    return pasted, mask_box(moved).to(image.dtype), visible


@checked
def blurred_mask(alpha: Float[Tensor, "*batch n m"], *, radius: int = 2, sigma: float = 2.0) -> Float[Tensor, "*batch n m"]:
    r"""Softens the edge of a mask, so that the object fades into the background.

    $$ \alpha'_{yx} = \sum_{i, j = -r}^{r} g_i\, g_j\, \alpha_{y + i, x + j}, \qquad g_i \propto e^{-i^2 / 2\sigma^2} $$

    with $g_i$ that add up to 1. The paper blends some copies of a scene with a Gaussian blur, some with a box blur. A large $\sigma$ is the
    box, radius 1 in the authors' code.

    Args:
        alpha: the mask, 1 on the object and 0 elsewhere; beyond the border it is 0.
        radius: $r$, in pixels.
        sigma: $\sigma$, in pixels.

    Returns:
        The blurred mask, in [0, 1].
    """
    alpha = widen(alpha)
    distance = torch.arange(-radius, radius + 1, device=alpha.device, dtype=alpha.dtype)
    kernel = (-(distance / sigma).square() / 2).softmax(0)
    n, m = alpha.shape[-2:]
    padded = pad(alpha, (radius, radius, radius, radius))
    rows = torch.stack([padded[..., i : i + n, :] for i in range(2 * radius + 1)], -1)
    columns = (rows * kernel).sum(-1)
    return (torch.stack([columns[..., i : i + m] for i in range(2 * radius + 1)], -1) * kernel).sum(-1)


@checked
def random_shift(
    boxes: Float[Tensor, "*batch k 4"],
    image_size: Float[Tensor, "*batch 2"],
    noise: Float[Tensor, "*batch k 2"] | None = None,
    *,
    max_truncation: float = 0.25,
) -> Int[Tensor, "*batch k 2"]:
    r"""Draws where objects go: anywhere in the image, and beyond its border by a part of their size at most.

    $$ x \sim \mathcal U\{-f w, \dots, W - w + f w\} $$

    Args:
        boxes: tight boxes of the objects' masks, `(x1, y1, x2, y2)` in whole pixels.
        image_size: width $W$ and height $H$ of the image.
        noise: for x and y, uniform in [0, 1); a fresh draw by default.
        max_truncation: $f$, share of an object's width, and of its height, that may lie outside.

    Returns:
        How far each object is moved to the right and downwards, in whole pixels; may be negative. An object larger than the image goes to
        the first place.
    """
    boxes, limit = widen(boxes.detach()), widen(image_size.detach())[..., None, :]
    noise = torch.rand_like(boxes[..., :2]) if noise is None else noise.to(boxes.dtype)
    size = box_size(boxes)
    lowest = (-max_truncation * size).trunc()
    highest = (limit - size + max_truncation * size).trunc()
    place = lowest + (noise * (highest - lowest + 1).clamp(min=1)).floor()
    return (place - boxes[..., :2].floor()).long()


@checked
def hides_another(boxes: Float[Tensor, "*batch k 4"], *, max_overlap: float = 0.75) -> Bool[Tensor, "*batch k"]:
    r"""Whether an object lies over more than a given part of the box of one that was placed before it.

    $$ \exists j < k: \; A(B_k \cap B_j) > \theta\, A(B_j) $$

    The authors then draw another place for it, up to 20 times.

    Args:
        boxes: boxes of the objects after the shift, in the order of pasting.
        max_overlap: $\theta$, share of the earlier box.

    Returns:
        True for objects that are to be moved.
    """
    boxes = widen(boxes.detach())
    shared = box_intersection(boxes[..., :, None, :], boxes[..., None, :, :])
    return ((shared > max_overlap * box_area(boxes)[..., None, :]).tril(-1)).any(-1)
