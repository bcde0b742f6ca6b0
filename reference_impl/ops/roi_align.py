"""Pooling a box from a feature map to a grid of fixed size: RoIAlign (He et al., 2017) and precise RoI pooling (Jiang et al., 2018).

Both average the bilinearly interpolated map over each cell of the grid, the first by a few samples, the second by the exact integral. Both
are a sum of a few weighted rows of a table with one row of channels for each location (`ops.rows`): of the map itself, or of its integral.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from reference_impl.ops.boxes import box_area, box_size
from reference_impl.ops.checked import checked
from reference_impl.ops.levels import check_levels
from reference_impl.ops.numerics import in_full_precision, safe_divide, widen
from reference_impl.ops.rows import as_rows, sum_of_rows

__all__ = ["precise_roi_pool", "precise_roi_pool_levels", "roi_align", "roi_align_by_size", "roi_align_levels"]

# Adaptive samples are at least half a cell apart, so that no more than this many lie less than one cell away from a cell's centre.
NEAR = 5

# Up to this many rows of grid cells, of all boxes of an image, it is faster to weigh every cell of a map than to sum the map up.
FEW = 128


@checked
def roi_align(
    features: Float[Tensor, "b channels h w"],
    boxes: Float[Tensor, "b r 4"],
    *,
    scale: float,
    size: int = 7,
    samples: int | None = 2,
    aligned: bool = True,
) -> Float[Tensor, "b r channels size size"]:
    r"""Averages samples of the interpolated map, in a regular grid inside each cell of the box.

    $$ y_{ij} = \frac{1}{n^2} \sum_{k,l=1}^{n} f(u_{ik}, v_{jl}) $$

    $f$ interpolates bilinearly between the centres of the map's cells. Up to one cell beyond the outermost centres it keeps their value; a
    sample farther out counts as zero. That is what the compiled kernels of torchvision and detectron2 do. No gradient reaches the boxes,
    and that of the features cannot be differentiated again.

    Args:
        features: one map for each image.
        boxes: absolute `(x1, y1, x2, y2)` in pixels of the network's input.
        scale: cells of the map for each pixel, 1/16 for a stride of 16.
        size: cells of the grid in each direction.
        samples: $n$, in each direction of a cell; None takes as many as the cell is wide or high on the map, rounded up, which costs a
            matrix product over the whole map for each box.
        aligned: whether the map's first value lies at half a cell. If not, it lies at 0, and a box is at least one cell wide and high.

    Returns:
        The grid of each box, in the dtype of the features.

    Raises:
        ValueError: `samples` is below 1. Elsewhere 0 or -1 may stand for what None is here.
    """
    return _align([features], boxes, torch.zeros_like(boxes[..., 0], dtype=torch.int64), [scale], size, samples, aligned)


@checked
def roi_align_levels(
    levels: Sequence[Tensor],
    boxes: Float[Tensor, "b r 4"],
    level: Int[Tensor, "b r"],
    *,
    scales: Sequence[float],
    size: int = 7,
    samples: int | None = 2,
    aligned: bool = True,
) -> Float[Tensor, "b r channels size size"]:
    """`roi_align`, each box from the level that is its own, in one pass over the boxes.

    Args:
        levels: maps `[b channels h_i w_i]`, finest first.
        boxes: absolute `(x1, y1, x2, y2)` in pixels of the network's input.
        level: index into `levels` for each box.
        scales: cells for each pixel, one number for each level.
        size: cells of the grid in each direction.
        samples: as in `roi_align`; None costs as much as pooling every box from every level.
        aligned: as in `roi_align`.

    Raises:
        TypeError: a level is not a floating-point tensor.
        ValueError: the levels' channels, their order, or the number of `scales` does not fit.
    """
    _check("roi_align_levels", levels, scales)
    return _align(levels, boxes, level, scales, size, samples, aligned)


@checked
def roi_align_by_size(
    levels: Sequence[Tensor], boxes: Float[Tensor, "b r 4"], *, scale: float, finest_size: float, size: int = 7
) -> Float[Tensor, "b r channels size size"]:
    """`roi_align`, each box from the level that fits its size, so that boxes of all sizes cover about as many cells.

    Args:
        levels: maps `[b channels h_i w_i]`, finest first, each half as fine as the one before. One alone will do.
        boxes: absolute `(x1, y1, x2, y2)` in pixels of the network's input.
        scale: cells of the finest level for each pixel.
        finest_size: side of a square from which on boxes are pooled from the second level; from twice that on from the third, and so on.
        size: cells of the grid in each direction.

    Raises:
        TypeError: a level is not a floating-point tensor.
        ValueError: the levels' channels or their order do not fit.
    """
    doublings = (2 * box_area(boxes).sqrt() / finest_size).clamp(min=1).log2()
    level = doublings.long().clamp(max=len(levels) - 1)
    return roi_align_levels(levels, boxes, level, scales=[scale / 2**i for i in range(len(levels))], size=size)


@checked
def precise_roi_pool(
    features: Float[Tensor, "b channels h w"], boxes: Float[Tensor, "b r 4"], *, scale: float, size: int = 7
) -> Float[Tensor, "b r channels size size"]:
    r"""Averages the interpolated map over each cell of the box exactly, so that the box itself has a gradient, and one without jumps.

    $$ y = \frac{1}{(x_2 - x_1)(y_2 - y_1)} \int_{y_1}^{y_2} \int_{x_1}^{x_2} \sum_{i,j} \max(0, 1 - |x - i|) \max(0, 1 - |y - j|)\, f_{ij}
    \,dx\,dy $$

    The value $f_{ij}$ of the map is at $x = i$, $y = j$; beyond the map, the interpolation goes down to zero within one cell. The gradient
    reaches the features and the boxes, of many boxes once: it cannot be differentiated again.

    The integral up to a point needs nine numbers of the map's running sums, whatever the size of the box. They are summed in float64, since
    they are subtracted from each other in the end. For few boxes, every cell of the map is weighed instead.

    Args:
        features: one map for each image.
        boxes: absolute `(x1, y1, x2, y2)` in pixels of the network's input.
        scale: cells of the map for each pixel; 1/16 for a stride of 16.
        size: cells of the grid in each direction.

    Returns:
        The grid of each box, in the dtype of the features; 0, with gradient 0, for a box without area.
    """
    return _pool([features], boxes, torch.zeros_like(boxes[..., 0], dtype=torch.int64), [scale], size)


@checked
def precise_roi_pool_levels(
    levels: Sequence[Tensor], boxes: Float[Tensor, "b r 4"], level: Int[Tensor, "b r"], *, scales: Sequence[float], size: int = 7
) -> Float[Tensor, "b r channels size size"]:
    """`precise_roi_pool`, each box from the level that is its own, in one pass over the boxes.

    Args:
        levels: maps `[b channels h_i w_i]`, finest first.
        boxes: absolute `(x1, y1, x2, y2)` in pixels of the network's input.
        level: index into `levels` for each box.
        scales: cells for each pixel, one number for each level.
        size: cells of the grid in each direction.

    Raises:
        TypeError: a level is not a floating-point tensor.
        ValueError: the levels' channels, their order, or the number of `scales` does not fit.
    """
    _check("precise_roi_pool_levels", levels, scales)
    return _pool(levels, boxes, level, scales, size)


def _check(function: str, levels: Sequence[Tensor], scales: Sequence[float]) -> None:
    if len(levels) != len(scales) or not levels:
        raise ValueError(f"{function}: {len(levels)} `levels`, but {len(scales)} `scales`; expected one or more, and as many")
    check_levels(function, levels, [levels[0].shape[1]] * len(levels) if isinstance(levels[0], Tensor) else [0] * len(levels))


def _align(
    levels: Sequence[Tensor], boxes: Tensor, level: Tensor, scales: Sequence[float], size: int, samples: int | None, aligned: bool
) -> Tensor:
    if samples is not None and samples < 1:
        raise ValueError(f"roi_align: `samples` is {samples}; expected at least 1, or None for as many as fit")
    features = [widen(x) for x in levels]
    dtype = torch.promote_types(widen(boxes).dtype, features[0].dtype)
    placed = boxes.detach().to(dtype) * _of_level(level, scales, dtype)[..., None]
    start, length = placed[..., :2] - 0.5 * aligned, placed[..., 2:] - placed[..., :2]
    if not aligned:
        length = length.clamp(min=1)
    if samples is None:
        found = (_align_adaptively(x, start, length, level == i, size) for i, x in enumerate(features))
        pooled = sum(found, start=placed.new_zeros(()))
    else:
        width = _of_level(level, [x.shape[-1] for x in levels])
        (column, of_column), (row, of_row) = (
            _corners(start[..., axis], length[..., axis], cells, size, samples)
            for axis, cells in enumerate((width, _of_level(level, [x.shape[-2] for x in levels])))
        )
        index = _first_rows(levels, level)[..., None, None, None] + _outer(row * width[..., None, None], column, torch.add)
        pooled = sum_of_rows(torch.cat([as_rows(x) for x in features]), index, _outer(of_row, of_column, torch.mul)).movedim(-1, -3)
    return pooled.to(levels[0].dtype)


def _corners(start: Tensor, length: Tensor, cells: Tensor, size: int, samples: int) -> tuple[Tensor, Tensor]:
    """Along one axis, the cells of the map around the samples of each cell of the grid, and their weights: `[b r size 2 samples]`."""
    step = (torch.arange(size * samples, dtype=start.dtype, device=start.device) + 0.5) / (size * samples)
    at = start[..., None] + length[..., None] * step
    last = cells[..., None] - 1
    inside = (at >= -1) & (at <= last + 1)
    at = at.clamp(min=0).minimum(last.to(at.dtype))
    low = at.long().clamp(min=0).minimum(last)
    share = at - low
    index = torch.stack((low, (low + 1).minimum(last)), -1)
    weight = torch.stack((1 - share, share), -1) * (inside.to(at.dtype) / samples)[..., None]
    return index.unflatten(-2, (size, samples)).flatten(-2), weight.unflatten(-2, (size, samples)).flatten(-2)  # type: ignore[no-untyped-call]


def _align_adaptively(features: Tensor, start: Tensor, length: Tensor, chosen: Tensor, size: int) -> Tensor:
    """From one level; 0 for boxes that are not of it."""
    of_column, of_row = (_weights(start[..., axis], length[..., axis], features.shape[-1 - axis], size) for axis in (0, 1))
    return _weigh(features, of_row, of_column * chosen[..., None, None])


def _weigh(features: Tensor, of_row: Tensor, of_column: Tensor) -> Tensor:
    """The sum of the whole map for each cell of the grid, from the weights of its rows and columns, `[b r size cells]`."""
    of_row, of_column = of_row.to(features.dtype), of_column.to(features.dtype)
    with in_full_precision(features):
        half = torch.einsum("brjx,bcyx->brjcy", of_column, features)
        return torch.einsum("briy,brjcy->brcij", of_row, half)


def _weights(start: Tensor, length: Tensor, cells: int, size: int) -> Tensor:
    """Along one axis, the weight of each cell of the map in each cell of the grid, samples being up to a cell apart: `[b r size cells]`."""
    bin_length = (length / size)[..., None, None, None]
    count = bin_length.ceil()
    step = bin_length / count.clamp(min=1)
    step = torch.where(step > 0, step, 1)
    first = start[..., None, None, None] + bin_length * torch.arange(size, device=start.device)[:, None, None] + step / 2
    cell = torch.arange(cells, device=start.device)[:, None]
    number = ((cell - 1 - first) / step).floor().clamp(min=0) + torch.arange(NEAR, device=start.device)
    at = first + number * step
    inside = (number < count) & (at >= -1) & (at <= cells)
    weight = (1 - (at.clamp(0, cells - 1) - cell).abs()).clamp(min=0) * inside
    return (weight / count.clamp(min=1)).sum(-1)


def _pool(levels: Sequence[Tensor], boxes: Tensor, level: Tensor, scales: Sequence[float], size: int) -> Tensor:
    placed = boxes.double() * _of_level(level, scales, torch.float64)[..., None]
    length = box_size(placed)
    area = length[..., 0] * length[..., 1]
    per_area = safe_divide(torch.full_like(area, size**2), area)[..., None, None]
    border = torch.arange(size + 1, device=boxes.device) / size
    borders = [placed[..., axis, None] + length[..., axis, None] * border for axis in (0, 1)]
    if not torch.compiler.is_compiling() and boxes.shape[-2] * size <= FEW:
        found = (_pool_few(x, borders, per_area * (level == i)[..., None, None]) for i, x in enumerate(levels))
        return sum(found, start=placed.new_zeros(())).to(levels[0].dtype)
    width = _of_level(level, [x.shape[-1] for x in levels])
    (column, of_column), (row, of_row) = (
        _running(at, cells) for at, cells in zip(borders, (width, _of_level(level, [x.shape[-2] for x in levels])), strict=True)
    )
    sums = [pad(x.double().cumsum(-1).cumsum(-2), (1, 0, 1, 0)) for x in levels]
    index = _first_rows(sums, level)[..., None, None, None] + _outer(row * (width + 1)[..., None, None], column, torch.add)
    corner = sum_of_rows(torch.cat([as_rows(x) for x in sums]), index, _outer(of_row * per_area, of_column, torch.mul))
    # Border less border before, in both directions at once.
    between = torch.eye(size + 1, dtype=corner.dtype, device=corner.device).diff(dim=0)
    pooled = torch.kron(between, between) @ corner.flatten(-3, -2)
    return pooled.mT.reshape(*boxes.shape[:-1], levels[0].shape[1], size, size).to(levels[0].dtype)


def _pool_few(features: Tensor, borders: Sequence[Tensor], per_area: Tensor) -> Tensor:
    """From one level, cell by cell of the map: for few boxes that is less than to sum up the map."""
    features = widen(features)
    of_column, of_row = (_hats(at, cells) for at, cells in zip(borders, features.shape[:1:-1], strict=True))
    return _weigh(features, of_row * per_area, of_column)


def _hats(at: Tensor, cells: int) -> Tensor:
    """Along one axis, the integral of the hat function of each cell of the map from border to border of the grid: `[b r size cells]`."""
    past = (at[..., None] - torch.arange(cells, device=at.device)).clamp(-1, 1)
    return torch.sub(past, past * past.abs(), alpha=0.5).diff(dim=-2)


def _running(at: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Along one axis, rows and weights that give the integral up to each border of the grid, from sums up to each cell: `[b r size+1 3]`.

    A hat function that lies before the point has integral 1, so the integral is a running sum, but for the two hats that the point cuts.
    """
    last = cells[..., None].to(at.dtype)
    at = at.clamp(min=-2).minimum(last + 1)
    cell = at.detach().floor().minimum(last)
    share = at - cell
    weight = torch.stack(((1 - share).square() / 2, 0.5 + share - share.square(), share.square() / 2), -1)
    index = cell.long()[..., None] + torch.arange(3, device=at.device)
    return index.clamp(min=0).minimum(cells[..., None, None]), weight


def _of_level(level: Tensor, values: Sequence[float], dtype: torch.dtype = torch.int64) -> Tensor:
    """What each box's level has; made without a copy to the device."""
    found = torch.full_like(level, values[0], dtype=dtype)
    for i, value in enumerate(values[1:], 1):
        found = torch.where(level == i, value, found)
    return found


def _first_rows(levels: Sequence[Tensor], level: Tensor) -> Tensor:
    """Where the map that a box is pooled from begins, if those of all levels and images are in one table."""
    image = torch.arange(level.shape[0], device=level.device)[:, None]
    start, starts = 0, []
    for x in levels:
        starts.append(start)
        start += x.shape[0] * x.shape[-2] * x.shape[-1]
    return _of_level(level, starts) + image * _of_level(level, [x.shape[-2] * x.shape[-1] for x in levels])


def _outer(row: Tensor, column: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Every row of a cell with every column: `[b r size size k]`."""
    return combine(row[..., :, None, :, None], column[..., None, :, None, :]).flatten(-2)
