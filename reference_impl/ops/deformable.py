"""Deformable convolution: Dai et al., ICCV 2017, and with modulation, Zhu, Hu, Lin and Dai, CVPR 2019."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen
from reference_impl.ops.rows import as_rows, sum_of_rows

__all__ = ["deformable_conv"]


@checked
def deformable_conv(
    x: Float[Tensor, "b channels h w"],
    offsets: Float[Tensor, "b displacements rows columns"],
    weight: Float[Tensor, "out channels kh kw"],
    bias: Float[Tensor, "out"] | None = None,
    mask: Float[Tensor, "b taps rows columns"] | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Float[Tensor, "b out rows columns"]:
    r"""A convolution each of whose taps looks a predicted distance away from its place in the grid, at each location another one.

    $$ y(p) = \sum_k w_k\, m_k(p)\, x(p + p_k + \Delta p_k(p)) $$

    $x$ is interpolated bilinearly and zero outside the map. The gradient reaches the map, the offsets, the weights and the mask, once: it
    cannot be differentiated again. With zero offsets it is `conv2d`.

    Args:
        x: the maps.
        offsets: $\Delta p_k$ at each output location, in cells: `2 kh kw` channels, down and right for the first tap, then for the next
            one, row by row of the kernel. A multiple of that splits the channels of `x` into as many groups, each with its own offsets.
        weight: $w_k$.
        bias: added to each output channel; none by default.
        mask: $m_k$, `kh kw` channels for each group, usually in [0, 1]; 1 by default.
        stride: cells between output locations.
        padding: cells around the map that the kernel may reach without an offset.
        dilation: cells between the taps without an offset.

    Returns:
        The output, in the dtype of `x`.

    Raises:
        ValueError: `offsets` or `mask` do not have the channels or the size that the output needs.
    """
    groups = _groups(x, offsets, weight, mask, stride, padding, dilation)
    images, channels, height, width = x.shape
    taps_high, taps_wide = weight.shape[-2:]
    tap = torch.arange(taps_high * taps_wide, device=x.device)
    down, right = (torch.arange(n, device=x.device)[:, None] * stride - padding for n in offsets.shape[-2:])
    row_of_tap, column_of_tap = down + tap // taps_wide * dilation, right + tap % taps_wide * dilation

    dtype = torch.promote_types(widen(offsets).dtype, widen(x).dtype)
    moved = offsets.to(dtype).unflatten(1, (groups, tap.numel(), 2)).movedim((1, 2), (-1, -2))  # type: ignore[no-untyped-call]
    row, of_row = _between(row_of_tap[:, None, :, None] + moved[:, 0], height)
    column, of_column = _between(column_of_tap[:, :, None] + moved[:, 1], width)
    weights = (of_row[..., :, None] * of_column[..., None, :]).flatten(-2)
    if mask is not None:
        weights = weights * mask.to(dtype).unflatten(1, (groups, tap.numel())).movedim((1, 2), (-1, -2))[..., None]  # type: ignore[no-untyped-call]

    image = torch.arange(images, device=x.device).view(-1, 1, 1, 1, 1, 1, 1)
    cell = ((image * height + row[..., :, None]) * width + column[..., None, :]).flatten(-2)
    index = cell * groups + torch.arange(groups, device=x.device)[:, None]
    patches = sum_of_rows(as_rows(x).reshape(-1, channels // groups), index, weights).flatten(-3)
    return linear(patches.to(x.dtype), weight.permute(0, 2, 3, 1).flatten(1), bias).permute(0, 3, 1, 2)


def _between(at: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Along one axis, the two cells that a point lies between, and their shares; 0 for a cell outside the map: `[... 2]`."""
    low = at.detach().floor()
    cell = low.long()[..., None] + torch.arange(2, device=at.device)
    share = torch.stack((low + 1 - at, at - low), -1) * ((cell >= 0) & (cell < cells))
    return cell.clamp(0, cells - 1), share


def _groups(x: Tensor, offsets: Tensor, weight: Tensor, mask: Tensor | None, stride: int, padding: int, dilation: int) -> int:
    """How many groups of channels have offsets of their own."""
    taps = weight.shape[-2] * weight.shape[-1]
    reach = [(side - 1) * dilation + 1 for side in weight.shape[-2:]]
    size = tuple((side + 2 * padding - r) // stride + 1 for side, r in zip(x.shape[-2:], reach, strict=True))
    groups = max(offsets.shape[1] // (2 * taps), 1)
    if offsets.shape[1:] != (groups * 2 * taps, *size) or x.shape[1] % groups:
        expected = (
            f"({x.shape[0]}, {2 * taps}, {size[0]}, {size[1]}), or {2 * taps} for each of some equal groups of the {x.shape[1]} channels"
        )
        raise ValueError(f"deformable_conv: `offsets` has shape {tuple(offsets.shape)}; expected {expected}")
    if mask is not None and mask.shape[1] != groups * taps:
        raise ValueError(f"deformable_conv: `mask` has {mask.shape[1]} channels; expected {groups * taps}")
    return groups
