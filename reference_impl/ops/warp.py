"""Images and features at other places: values between pixels, and one box brought onto another."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import safe_divide, widen

__all__ = ["bilinear", "move_box"]


@checked
def bilinear(
    maps: Float[Tensor, "*batch c n m"], x: Float[Tensor, "*batch h w"], y: Float[Tensor, "*batch h w"]
) -> Float[Tensor, "*batch c h w"]:
    """Values between pixels, interpolated in both directions; beyond the outermost pixels they fade to 0 within one pixel.

    Args:
        maps: `n` rows of `m` pixels.
        x: column to look at, 0 at the centre of the first one; the same for all channels.
        y: row to look at, likewise.
    """
    maps = widen(maps)
    n, m = maps.shape[-2:]
    flat = pad(maps.flatten(-2), (0, 1))
    left, top = x.detach().floor(), y.detach().floor()
    total = maps.new_zeros(*maps.shape[:-2], *x.shape[-2:])
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        weight = (1 - (x - column).abs()) * (1 - (y - row).abs())
        inside = (column >= 0) & (column < m) & (row >= 0) & (row < n)
        index = torch.where(inside, row * m + column, n * m).long().flatten(-2)
        value = flat.gather(-1, index[..., None, :].expand(*maps.shape[:-2], index.shape[-1]))
        total = total + value.view_as(total) * weight[..., None, :, :]
    return total


@checked
def move_box(
    maps: Float[Tensor, "*batch c n m"],
    boxes: Float[Tensor, "*batch 4"],
    target: Float[Tensor, "*batch 4"],
    *,
    height: int | None = None,
    width: int | None = None,
) -> Float[Tensor, "*batch c h w"]:
    """Cuts a box out of each image, stretches it, and puts it onto another place of an image that is 0 elsewhere.

    Every pixel takes the value at the place where its centre comes from, and sees nothing beside the box. An image made smaller is not
    smoothed before.

    Args:
        maps: `n` rows of `m` pixels; 0 beyond them.
        boxes: where the content is, `(x1, y1, x2, y2)`; pixel `i` reaches from `i` to `i + 1`.
        target: where it goes, likewise.
        height: rows of the result, by default `n`.
        width: columns of the result, by default `m`.
    """
    boxes, target = widen(boxes), widen(target)
    height, width = maps.shape[-2] if height is None else height, maps.shape[-1] if width is None else width
    x, inside_x = _origin(boxes[..., 0::2], target[..., 0::2], width)
    y, inside_y = _origin(boxes[..., 1::2], target[..., 1::2], height)
    shape = *target.shape[:-1], height, width
    moved = bilinear(maps, x[..., None, :].expand(shape), y[..., :, None].expand(shape))
    return moved * (inside_y[..., :, None] & inside_x[..., None, :])[..., None, :, :]


def _origin(side: Tensor, target: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """Along one axis: where each pixel looks, at most half a pixel short of the ends of `side`, and whether it lies in `target`."""
    start, end = side[..., :1], side[..., 1:]
    first, last = target[..., :1], target[..., 1:]
    center = torch.arange(pixels, device=side.device, dtype=target.dtype) + 0.5
    place = start + safe_divide((center - first) * (end - start), last - first) - 0.5
    middle, reach = (start + end - 1) / 2, (end - start - 1).clamp(min=0) / 2
    return place.maximum(middle - reach).minimum(middle + reach), (center > first) & (center < last)
