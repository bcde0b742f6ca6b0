"""Lists of feature maps, finest first: what they must look like, one brought to the size of another, and all of them taken as one."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate, max_pool2d

__all__ = ["as_one_map", "check_levels", "resize_like", "upsample_like"]


def check_levels(function: str, levels: Sequence[Tensor], channels: Sequence[int]) -> None:
    """Raise unless `levels` are maps `[b c h w]` of these channels, each as coarse as the one before it or coarser.

    Nothing is checked while `torch.compile` or `torch.export` traces.

    Raises:
        TypeError: an element is not a floating-point tensor.
        ValueError: the number of levels, the channels of one, or the order does not fit.
    """
    if torch.compiler.is_compiling():
        return
    if len(levels) != len(channels):
        raise ValueError(f"{function}: `levels` has {len(levels)} feature maps; expected {len(channels)}, finest first")
    for i, (x, c) in enumerate(zip(levels, channels, strict=True)):
        expected = f"expected a floating-point tensor of shape (b {c} h w)"
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"{function}: `levels[{i}]` is {x.dtype if isinstance(x, Tensor) else type(x).__name__}; {expected}")
        if x.dim() != 4 or x.shape[1] != c:
            raise ValueError(f"{function}: `levels[{i}]` has shape {tuple(x.shape)}; {expected}")
        if i and (x.shape[0] != levels[0].shape[0] or any(a > b for a, b in zip(x.shape[2:], levels[i - 1].shape[2:], strict=True))):
            raise ValueError(
                f"{function}: `levels[{i}]` has shape {tuple(x.shape)} after {tuple(levels[i - 1].shape)}; expected finest first"
            )


def upsample_like(x: Tensor, other: Tensor) -> Tensor:
    """`x` at the height and width of `other`, each location taking the value of the nearest one of `x`."""
    return interpolate(x, size=other.shape[-2:], mode="nearest")


def resize_like(x: Tensor, other: Tensor) -> Tensor:
    """`x` at the height and width of `other`: by nearest values where that is finer, by the maximum of each part where it is coarser."""
    (height, width), (rows, columns) = x.shape[-2:], other.shape[-2:]
    if (height, width) == (rows, columns):
        return x
    if height < rows or width < columns:
        return upsample_like(x, other)
    if height % rows == 0 and width % columns == 0:
        return max_pool2d(x, (height // rows, width // columns))
    return adaptive_max_pool2d(x, (rows, columns))


def as_one_map(function: Callable[[Tensor], Tensor], levels: Sequence[Tensor]) -> list[Tensor]:
    """`function` of all locations of all levels in one row, `[b c n]`, taken apart into levels again: statistics become those of all."""
    joined = function(torch.cat([x.flatten(2) for x in levels], 2))
    parts = torch.split(joined, [x.shape[2] * x.shape[3] for x in levels], 2)
    return [part.reshape(*part.shape[:2], *x.shape[2:]) for part, x in zip(parts, levels, strict=True)]
