"""Cut, Paste and Learn: Dwibedi, Misra and Hebert, ICCV 2017."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from reference_impl.ops.boxes import box_area, box_center, box_intersection, box_size, mask_box
from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import safe_divide, widen
from reference_impl.ops.repeat import repeated
from reference_impl.ops.warp import bilinear

__all__ = ["blurred_mask", "cut_paste", "hides_another", "motion_blur", "poisson_blend", "random_shift", "scale_and_rotate"]


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

    Each object is moved by a whole number of pixels; what leaves the image is cut off. A later object hides an earlier one. The paper makes
    the same scene several times, with the same boxes but blended in another way, so that a detector cannot tell objects by their edges. Two
    of the ways are another $\alpha$: the mask itself, or a blurred one (`blurred_mask`). The other two are `poisson_blend`, object by
    object, and `motion_blur` of the finished scene. Some of the objects are distractors: they are pasted like the others, but their boxes
    are left out of the annotation.

    Args:
        image: the background, `n` rows of `m` pixels.
        source: an image for each object, with the object at the place of its mask.
        mask: the pixels of the object.
        shift: how far each object is moved, in pixels to the right and downwards; may be negative.
        alpha: $\alpha$, how much of a pixel of `source` is the object, in [0, 1]; by default the mask.

    Returns:
        The image; the box of each object's pixels in it, `(x1, y1, x2, y2)`, where pixel `i` reaches from `i` to `i + 1`, hidden pixels
        included; and the share of its pixels that lie in the image and are not hidden. The box of an object outside is (0, 0, 0, 0).

    Raises:
        ValueError: the shapes do not fit together.
    """
    image, source = widen(image), widen(source)
    n, m = mask.shape[-2:]
    alpha = mask.to(image.dtype) if alpha is None else widen(alpha)
    origin, inside = _origin(shift, n, m)
    moved = _moved(mask, origin) & inside
    opacity = (_moved(alpha, origin) * inside)[..., None, :, :]
    content = _moved(source, origin[..., None, :])
    uncovered = pad((1 - opacity).flip(-4).cumprod(-4).flip(-4), (0, 0, 0, 0, 0, 0, 0, 1), value=1.0)
    pasted = image * uncovered[..., 0, :, :, :] + (opacity * content * uncovered[..., 1:, :, :, :]).sum(-4)

    later = moved.flip(-3).cumsum(-3).flip(-3) - moved.long()
    visible = safe_divide((moved & (later == 0)).sum((-2, -1)).to(image.dtype), mask.sum((-2, -1)).to(image.dtype))
    return pasted, mask_box(moved).to(image.dtype), visible


def _origin(shift: Tensor, n: int, m: int) -> tuple[Tensor, Tensor]:
    """The pixel that comes to each place, the nearest one where none does; and whether one does."""
    y = torch.arange(n, device=shift.device) - shift[..., 1:]
    x = torch.arange(m, device=shift.device) - shift[..., :1]
    inside = ((y >= 0) & (y < n))[..., :, None] & ((x >= 0) & (x < m))[..., None, :]
    return (y.clamp(0, max(n - 1, 0))[..., :, None] * m + x.clamp(0, max(m - 1, 0))[..., None, :]).flatten(-2), inside


def _moved(maps: Tensor, origin: Tensor) -> Tensor:
    """Maps `[... n m]` with the pixel from `origin`, `[... n m]` in a row, at each place."""
    return maps.flatten(-2).gather(-1, origin.expand(*maps.shape[:-2], origin.shape[-1])).view(maps.shape)


@checked
def blurred_mask(alpha: Float[Tensor, "*batch n m"], *, radius: int = 2, sigma: float = 2.0) -> Float[Tensor, "*batch n m"]:
    r"""Softens the edge of a mask, so that the object fades into the background.

    $$ \alpha'_{yx} = \sum_{i, j = -r}^{r} g_i\, g_j\, \alpha_{y + i, x + j}, \qquad g_i \propto e^{-i^2 / 2\sigma^2} $$

    with $g_i$ that add up to 1. The paper blends some copies of a scene with a Gaussian blur, some with a box blur. A very large $\sigma$
    makes it a box blur, for which the authors' code has radius 1.

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
def poisson_blend(
    image: Float[Tensor, "*batch c n m"],
    source: Float[Tensor, "*batch c n m"],
    mask: Bool[Tensor, "*batch n m"],
    shift: Int[Tensor, "*batch 2"],
    *,
    iterations: int = 200,
) -> Float[Tensor, "*batch c n m"]:
    r"""Pastes the colour differences within an object instead of its colours, so that its edge has the background's light.

    $$ \sum_{q \in N_p} (f_p - f_q) = \sum_{q \in N_p} (g_p - g_q) \quad \text{for } p \in \Omega, \qquad f = I \text{ elsewhere} $$

    $\Omega$ are the pixels of the object, $g$ is its image after the shift, and $N_p$ are the up to four neighbours of a pixel in the
    image. Solved by conjugate gradients for $f - g$, from 0: as many iterations as the object has pixels always solve it, and twice its
    diameter in pixels is enough for an error of a ten-thousandth. No gradient passes through.

    Args:
        image: $I$, the background, `n` rows of `m` pixels.
        source: an image with the object at the place of its mask.
        mask: the pixels of the object.
        shift: how far it is moved, in pixels to the right and downwards; may be negative.
        iterations: $T$, how many steps are taken.

    Returns:
        The image with the object. Its values may leave the range of the two images.
    """
    image, source = widen(image.detach()), widen(source.detach())
    n, m = mask.shape[-2:]
    origin, inside = _origin(shift, n, m)
    moved = (_moved(mask, origin) & inside)[..., None, :, :]
    content = _moved(source, origin[..., None, :])
    neighbours = _around(torch.ones_like(image))

    def step(correction: Tensor, residual: Tensor, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        change = moved * (neighbours * direction - _around(direction))
        square = residual.square().sum((-2, -1), keepdim=True)
        length = safe_divide(square, (direction * change).sum((-2, -1), keepdim=True))
        residual = residual - length * change
        turn = safe_divide(residual.square().sum((-2, -1), keepdim=True), square)
        return correction + length * direction, residual, residual + turn * direction

    start = moved * _around(~moved * (image - content))
    correction, *_ = repeated(step, (torch.zeros_like(start), start, start.clone()), iterations)
    return torch.where(moved, content + correction, image)


def _around(pixels: Tensor) -> Tensor:
    """Sum of the neighbours above, below, left and right of each pixel."""
    n, m = pixels.shape[-2:]
    padded = pad(pixels, (1, 1, 1, 1))
    return padded[..., :n, 1:-1] + padded[..., 2:, 1:-1] + padded[..., 1:-1, :m] + padded[..., 1:-1, 2:]


@checked
def motion_blur(
    image: Float[Tensor, "*batch c n m"], degrees: Float[Tensor, "*batch"], *, before: int = 4, after: int = 4
) -> Float[Tensor, "*batch c n m"]:
    r"""Blurs a scene as if the camera had moved while it was taken: each pixel becomes the mean along a straight line.

    $$ I'_p = \frac{1}{a + b + 1} \sum_{i=-b}^{a} I_{p + \mathrm{round}(i\, d)}, \qquad
       d = \frac{(\cos\theta, -\sin\theta)}{\max(|\cos\theta|, |\sin\theta|)} $$

    Beyond the border the outermost pixels are repeated. The authors draw an odd length from 3 to 9 for the whole line, an angle, and
    whether the line goes both ways or only one way.

    Args:
        image: the finished scene.
        degrees: $\theta$ in degrees, counter-clockwise from the direction of the rows.
        before: $b$, how many pixels of the line lie behind the pixel.
        after: $a$, how many lie ahead of it.

    Returns:
        The blurred image; boxes do not change.
    """
    image = widen(image)
    n, m = image.shape[-2:]
    angle = widen(degrees.detach()).deg2rad()
    way = torch.stack((angle.cos(), -angle.sin()), -1)
    way = way / way.abs().amax(-1, keepdim=True)
    along = torch.arange(-before, after + 1, device=image.device, dtype=way.dtype)
    x, y = (along[:, None] * way[..., None, :]).round().long().unbind(-1)
    row = (torch.arange(n, device=image.device) + y[..., None]).clamp(0, max(n - 1, 0))
    column = (torch.arange(m, device=image.device) + x[..., None]).clamp(0, max(m - 1, 0))
    place = (row[..., :, None] * m + column[..., None, :]).flatten(-3)
    values = image.flatten(-2).gather(-1, place[..., None, :].expand(*image.shape[:-2], place.shape[-1]))
    return values.view(*values.shape[:-1], before + after + 1, n, m).mean(-3)


@checked
def scale_and_rotate(
    source: Float[Tensor, "*batch k c n m"],
    mask: Bool[Tensor, "*batch k n m"],
    noise: Float[Tensor, "*batch k 2"] | None = None,
    *,
    min_scale: float = 0.25,
    max_scale: float = 0.6,
    max_degrees: float = 30.0,
) -> tuple[Float[Tensor, "*batch k c n m"], Bool[Tensor, "*batch k n m"]]:
    r"""Makes each object smaller and turns it about the middle of its box, for more sizes and views than were cut out.

    $$ S'_p = S_q, \qquad q = c + \tfrac{1}{s} R_\theta^{-1} (p - c), \qquad s \sim \mathcal U(s_0, s_1), \quad
       \theta \sim \mathcal U(-t, t) $$

    Args:
        source: an image for each object, with the object at the place of its mask.
        mask: the pixels of the object.
        noise: for scale and angle, uniform in [0, 1); a fresh draw by default.
        min_scale: $s_0$ > 0, of width and height.
        max_scale: $s_1$.
        max_degrees: $t$; positive angles are counter-clockwise.

    Returns:
        Images and masks, which a `random_shift` of their boxes may follow. Values between pixels are interpolated, without smoothing; a
        pixel belongs to the object where at least half of it comes from the object. What is turned out of the image is cut off.
    """
    source = widen(source)
    noise = torch.rand(*mask.shape[:-2], 2, device=source.device, dtype=source.dtype) if noise is None else widen(noise.detach())
    scale, draw = (min_scale + noise[..., :1] * (max_scale - min_scale))[..., None], noise[..., 1:, None]
    angle = torch.deg2rad((2 * draw - 1) * max_degrees)
    n, m = mask.shape[-2:]
    center = box_center(mask_box(mask).to(source.dtype))[..., None, None, :]
    x = (torch.arange(m, device=source.device) + 0.5 - center[..., 0]) / scale
    y = (torch.arange(n, device=source.device)[:, None] + 0.5 - center[..., 1]) / scale
    column = center[..., 0] + angle.cos() * x - angle.sin() * y - 0.5
    row = center[..., 1] + angle.sin() * x + angle.cos() * y - 0.5
    return bilinear(source, column, row), bilinear(mask[..., None, :, :].to(source.dtype), column, row)[..., 0, :, :] >= 0.5


@checked
def random_shift(
    boxes: Float[Tensor, "*batch k 4"],
    image_size: Float[Tensor, "*batch 2"],
    noise: Float[Tensor, "*batch k 2"] | None = None,
    *,
    max_truncation: float = 0.25,
) -> Int[Tensor, "*batch k 2"]:
    r"""Draws where objects go: anywhere in the image, and beyond its border by at most a part of their size.

    $$ x \sim \mathcal{U}\{-f w, \dots, W - w + f w\} $$

    is the left side of an object $w$ pixels wide; its upper side likewise.

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
