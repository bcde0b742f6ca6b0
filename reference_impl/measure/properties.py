"""How boxes are distributed over the properties that the survey's eight problems are about: counts, one function a problem.

Feature levels have `boxes_per_level`. For the regression loss and the objective the distribution is that of a loss over examples or over
tasks, so nothing has to be counted. `effective_number` says of any of these how balanced it is. Boxes are absolute `(x1, y1, x2, y2)` in
pixels; labels run from 0 to `classes` - 1, and `classes` is the background. `among` says which boxes count: all but the padding, say.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reference_impl.ops.boxes import box_area, box_center
from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import in_full_precision, widen

__all__ = ["boxes_per_cell", "boxes_per_class", "boxes_per_iou_bin", "boxes_per_octave", "boxes_per_pixel", "foreground_background"]


@checked
def foreground_background(labels: Int[Tensor, "*batch n"], among: Bool[Tensor, "*batch n"], *, classes: int) -> Int[Tensor, "*batch 2"]:
    """Foreground-background class: how many boxes are objects, and how many are background (label `classes`)."""
    return _counts((labels >= classes).long(), among, 2)


@checked
def boxes_per_class(labels: Int[Tensor, "*batch n"], among: Bool[Tensor, "*batch n"], *, classes: int) -> Int[Tensor, "*batch classes"]:
    """Foreground-foreground class: how many boxes each class has; background is left out."""
    return _counts(labels, among & (labels < classes), classes)


@checked
def boxes_per_octave(
    boxes: Float[Tensor, "*batch n 4"], among: Bool[Tensor, "*batch n"], *, smallest: float = 16.0, octaves: int = 6
) -> Int[Tensor, "*batch octaves"]:
    """Object scale: how many boxes have a size, the root of the area, from `smallest` to twice that, from there to four times that, ...

    Smaller boxes are in the first octave, larger ones in the last.
    """
    size = box_area(boxes).sqrt().clamp(min=smallest)
    return _counts((size / smallest).log2().floor().long().clamp(max=octaves - 1), among, octaves)


@checked
def boxes_per_iou_bin(
    iou: Float[Tensor, "*batch n"], among: Bool[Tensor, "*batch n"], *, lowest: float = 0.5, bins: int = 10
) -> Int[Tensor, "*batch bins"]:
    """IoU distribution: how many boxes lie in each of `bins` equal parts of [`lowest`, 1]; an IoU below it counts nowhere."""
    place = ((widen(iou) - lowest) / (1 - lowest) * bins).floor().long()
    return _counts(place.clamp(max=bins - 1), among & (iou >= lowest), bins)


@checked
def boxes_per_cell(
    boxes: Float[Tensor, "*batch n 4"], among: Bool[Tensor, "*batch n"], image_size: Float[Tensor, "*batch 2"], *, cells: int = 4
) -> Int[Tensor, "*batch cells_squared"]:
    """Object location: how many centres fall into each cell of a grid of `cells` by `cells` over the image, row by row.

    Args:
        image_size: width and height in pixels.
    """
    place = (box_center(boxes) / image_size[..., None, :] * cells).floor().long().clamp(0, cells - 1)
    return _counts(place[..., 1] * cells + place[..., 0], among, cells * cells)


@checked
def boxes_per_pixel(
    boxes: Float[Tensor, "*batch n 4"], among: Bool[Tensor, "*batch n"], *, height: int = 8, width: int = 8
) -> Int[Tensor, "*batch height width"]:
    """Overlapping boxes (survey, Sec. 6.5.5 and Fig. 15): how many boxes cover the centre of each pixel."""
    boxes = widen(boxes)
    x, y = (torch.arange(n, dtype=boxes.dtype, device=boxes.device) + 0.5 for n in (width, height))
    across = (boxes[..., 0, None] <= x) & (x < boxes[..., 2, None])
    down = (boxes[..., 1, None] <= y) & (y < boxes[..., 3, None]) & among[..., None]
    with in_full_precision(boxes):
        return torch.einsum("...nh,...nw->...hw", down.to(boxes.dtype), across.to(boxes.dtype)).long()


def _counts(place: Tensor, among: Tensor, places: int) -> Tensor:
    counts = torch.zeros(*place.shape[:-1], places, dtype=torch.int64, device=place.device)
    return counts.scatter_add(-1, torch.where(among, place, 0), among.long())
