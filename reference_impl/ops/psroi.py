"""Position-sensitive pooling of regions: each part of a region has feature maps of its own."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen

__all__ = ["ps_roi_pool"]


@checked
def ps_roi_pool(
    maps: Float[Tensor, "*batch m h w"], boxes: Float[Tensor, "*batch n 4"], *, bins: int = 7, stride: int = 16
) -> Float[Tensor, "*batch n c bins bins"]:
    """Averages, for each part of a box, the map that belongs to that part, over all cells that it touches.

    Sums come from a table of sums over all cells above and to the left, so the time does not depend on the sizes of the boxes. Where a part
    begins and ends is computed in integers, so that rounding never adds a row of cells. No gradient passes through the boxes.

    Args:
        maps: `m = c bins bins` of them; those of one channel lie together, row by row of the parts.
        boxes: absolute `(x1, y1, x2, y2)` in pixels, rounded here to whole ones, halves up, and made at least one wide and high.
        bins: number of parts of a box in either direction.
        stride: pixels from one cell to the next.

    Returns:
        The average of each part in each channel; 0 for a part outside.

    Raises:
        ValueError: the number of maps is no multiple of the number of parts.
    """
    *batch, m, height, width = maps.shape
    if m % bins**2:
        raise ValueError(f"ps_roi_pool: {m} maps are not the same number for each of {bins} x {bins} parts")
    maps = widen(maps)
    table = pad(maps.double(), (1, 0, 1, 0)).cumsum(-1).cumsum(-2)
    table = table.reshape(*batch, m // bins**2, bins, bins, (height + 1) * (width + 1))
    corners = (widen(boxes.detach()) + 0.5).floor().long()
    left, right = _parts(corners[..., 0], corners[..., 2], bins, stride, width)
    top, bottom = _parts(corners[..., 1], corners[..., 3], bins, stride, height)

    def sum_to(y: Tensor, x: Tensor) -> Tensor:
        index = (y[..., :, None] * (width + 1) + x[..., None, :]).movedim(-3, -1)[..., None, :, :, :]
        return table.gather(-1, index.expand(*table.shape[:-1], index.shape[-1])).movedim(-1, -4)

    total = sum_to(bottom, right) - sum_to(top, right) - sum_to(bottom, left) + sum_to(top, left)
    area = (bottom - top)[..., :, None] * (right - left)[..., None, :]
    return (total / area.clamp(min=1)[..., None, :, :]).to(maps.dtype)


def _parts(start: Tensor, end: Tensor, bins: int, stride: int, cells: int) -> tuple[Tensor, Tensor]:
    """First cell of each part along one axis, and the one after the last."""
    part = torch.arange(bins, device=start.device)
    size = (end - start).clamp(min=1)[..., None]
    first = (start[..., None] * bins + size * part) // (stride * bins)
    last = -((-start[..., None] * bins - size * (part + 1)) // (stride * bins))
    return first.clamp(0, cells), last.clamp(0, cells)
