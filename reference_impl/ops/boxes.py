"""Box geometry: areas, overlaps and the deltas that regressors predict.

Boxes are absolute `(x1, y1, x2, y2)` with `x1 <= x2`, `y1 <= y2`. Every function of two boxes broadcasts: `box_iou(a, b)` is elementwise,
`box_iou(a[..., :, None, :], b[..., None, :, :])` is the matrix of all pairs.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import is_plain, nonnegative, safe_divide, safe_log, widen
from reference_impl.ops.overlap import diou_kernel, giou_kernel, iou_kernel, similarity

__all__ = [
    "box_area",
    "box_around",
    "box_center",
    "box_diou",
    "box_giou",
    "box_intersection",
    "box_iou",
    "box_size",
    "clip_boxes",
    "decode_deltas",
    "enclosing_box",
    "encode_deltas",
    "mask_box",
    "scale_deltas",
    "squared_center_distance",
]

Columns = tuple[Tensor, Tensor, Tensor, Tensor]

PAIRS_AT_ONCE = 2**16


def box_size(boxes: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 2"]:
    """Width and height, in pixels; a box whose corners are swapped has size 0."""
    return nonnegative(boxes[..., 2:] - boxes[..., :2])


def box_center(boxes: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 2"]:
    """Centre (x, y), in pixels."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def box_around(center: Float[Tensor, "*#batch 2"], size: Float[Tensor, "*#batch 2"] | float) -> Float[Tensor, "*#batch 4"]:
    """The box with this centre and this width and height, or a square with this side, in pixels."""
    return torch.cat((center.sub(size, alpha=0.5), center.add(size, alpha=0.5)), -1)


@checked
def box_area(boxes: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch"]:
    """Area, in square pixels."""
    return _area(*_columns(boxes))


@checked
def box_intersection(a: Float[Tensor, "*#batch 4"], b: Float[Tensor, "*#batch 4"]) -> Float[Tensor, "*#batch"]:
    """Area that two boxes share, in square pixels."""
    return _overlap(_columns(a), _columns(b))[0]


@checked
def box_iou(a: Float[Tensor, "*#batch 4"], b: Float[Tensor, "*#batch 4"]) -> Float[Tensor, "*#batch"]:
    r"""Intersection over union, in [0, 1]; 0 for two boxes without area.

    $$ \mathrm{IoU}(B, \bar B) = \frac{A(B \cap \bar B)}{A(B \cup \bar B)} $$

    Survey, Eq. 1.
    """
    wants_gradient = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    # While a compiler traces, looking at the size would bind the graph to few or to many pairs.
    if not wants_gradient and not torch.compiler.is_compiling() and a.numel() * b.numel() > 4 * 4 * PAIRS_AT_ONCE:
        shape = torch.broadcast_shapes(a.shape, b.shape)[:-1]  # type: ignore[no-untyped-call]
        if shape.numel() > PAIRS_AT_ONCE and is_plain(a) and is_plain(b):
            return _iou_of_many(a, b, shape)
    return similarity(widen(a), widen(b), _iou, iou_kernel)


@checked
def enclosing_box(a: Float[Tensor, "*#batch 4"], b: Float[Tensor, "*#batch 4"]) -> Float[Tensor, "*#batch 4"]:
    """The smallest box that contains both."""
    return torch.stack(_enclosing(_columns(a), _columns(b)), -1)


@checked
def squared_center_distance(a: Float[Tensor, "*#batch 4"], b: Float[Tensor, "*#batch 4"]) -> Float[Tensor, "*#batch"]:
    """Squared Euclidean distance between the centres, in square pixels."""
    return _squared_distance(_columns(a), _columns(b))


@checked
def box_giou(a: Float[Tensor, "*#batch 4"], b: Float[Tensor, "*#batch 4"]) -> Float[Tensor, "*#batch"]:
    r"""Generalized IoU, in [-1, 1]: IoU less the part of the enclosing box $E$ that neither box covers.

    $$ \mathrm{GIoU}(B, \bar B) = \mathrm{IoU}(B, \bar B) - \frac{A(E) - A(B \cup \bar B)}{A(E)} $$

    Survey, right side of Eq. 18.
    """
    return similarity(widen(a), widen(b), _giou, giou_kernel)


@checked
def box_diou(a: Float[Tensor, "*#batch 4"], b: Float[Tensor, "*#batch 4"]) -> Float[Tensor, "*#batch"]:
    r"""Distance IoU, in [-1, 1]: IoU less the squared distance of the centres as a share of the enclosing box's squared diagonal.

    $$ \mathrm{DIoU}(B, \bar B) = \mathrm{IoU}(B, \bar B) - \frac{d^2(B_C, \bar B_C)}{E_D^2} $$

    Survey, in Eq. 19. Two boxes that are the same point have DIoU 0.
    """
    return similarity(widen(a), widen(b), _diou, diou_kernel)


def _iou(a: Tensor, b: Tensor) -> Tensor:
    intersection, union = _overlap(_columns(a), _columns(b))
    return safe_divide(intersection, union)


def _giou(a: Tensor, b: Tensor) -> Tensor:
    first, second = _columns(a), _columns(b)
    intersection, union = _overlap(first, second)
    enclosing = _area(*_enclosing(first, second))
    return safe_divide(intersection, union) - safe_divide(enclosing - union, enclosing)


def _diou(a: Tensor, b: Tensor) -> Tensor:
    first, second = _columns(a), _columns(b)
    intersection, union = _overlap(first, second)
    left, top, right, bottom = _enclosing(first, second)
    diagonal = (right - left).square() + (bottom - top).square()
    return safe_divide(intersection, union) - safe_divide(_squared_distance(first, second), diagonal)


def _iou_of_many(a: Tensor, b: Tensor, shape: torch.Size) -> Tensor:
    """IoU of all pairs of two sets that broadcast to `shape`, without a gradient, some rows of the result at a time."""
    first, second = (sides_and_area(x[(None,) * (len(shape) + 1 - x.dim())]) for x in (a, b))
    result = torch.empty(shape, dtype=torch.promote_types(first.dtype, second.dtype), device=a.device)
    dim = next(i for i, size in enumerate(shape) if size > 1)
    rows = max(1, shape[dim] * PAIRS_AT_ONCE // shape.numel())
    scratch = torch.empty_like(torch.stack((result.narrow(dim, 0, rows),) * 2))
    for start in range(0, shape[dim], rows):
        place = result.narrow(dim, start, min(rows, shape[dim] - start))
        some = [x.narrow(dim + 1, start, place.shape[dim]) if x.shape[dim + 1] > 1 else x for x in (first, second)]
        iou_into(place, some[0], some[1], scratch.narrow(dim + 1, 0, place.shape[dim]).unbind())
    return result


def sides_and_area(boxes: Tensor) -> Tensor:
    """x1, y1, x2, y2 and the area of each box, one after the other: `[5 *batch]`."""
    columns = _columns(boxes.detach())
    return torch.stack((*columns, _area(*columns)))


def iou_into(place: Tensor, a: Tensor, b: Tensor, scratch: Sequence[Tensor]) -> None:
    """Write the IoU of boxes that broadcast into `place`: fresh memory costs more than the arithmetic.

    Args:
        place: memory for the result.
        a: `sides_and_area` of some boxes.
        b: the same of others.
        scratch: memory for two more results.
    """
    height, spare = scratch
    torch.minimum(a[2], b[2], out=place).sub_(torch.maximum(a[0], b[0], out=spare)).clamp_(min=0)
    torch.minimum(a[3], b[3], out=height).sub_(torch.maximum(a[1], b[1], out=spare)).clamp_(min=0)
    shared = place.mul_(height)
    union = torch.add(a[4], b[4], out=spare).sub_(shared)
    shared.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def _columns(boxes: Tensor) -> Columns:
    """The coordinates as four tensors, so that all that follows is elementwise."""
    x1, y1, x2, y2 = widen(boxes).unbind(-1)
    return x1, y1, x2, y2


def _area(x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor) -> Tensor:
    return nonnegative(x2 - x1) * nonnegative(y2 - y1)


def _overlap(a: Columns, b: Columns) -> tuple[Tensor, Tensor]:
    """Areas of intersection and union."""
    corners = (torch.maximum(a[0], b[0]), torch.maximum(a[1], b[1]), torch.minimum(a[2], b[2]), torch.minimum(a[3], b[3]))
    intersection = _area(*corners)
    return intersection, _area(*a) + _area(*b) - intersection


def _enclosing(a: Columns, b: Columns) -> Columns:
    return torch.minimum(a[0], b[0]), torch.minimum(a[1], b[1]), torch.maximum(a[2], b[2]), torch.maximum(a[3], b[3])


def _squared_distance(a: Columns, b: Columns) -> Tensor:
    x, y = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    return x.square() + y.square()


@checked
def encode_deltas(boxes: Float[Tensor, "*#batch 4"], reference: Float[Tensor, "*#batch 4"]) -> Float[Tensor, "*#batch 4"]:
    r"""What a regressor has to predict to move `reference` onto `boxes`.

    $$ \left(\frac{x - x_r}{w_r}, \frac{y - y_r}{h_r}, \ln\frac{w}{w_r}, \ln\frac{h}{h_r}\right) $$

    with centres $(x, y)$ and sizes $(w, h)$. The convention of the R-CNN family.
    """
    boxes, reference = widen(boxes), widen(reference)
    size = box_size(reference)
    shift = safe_divide(box_center(boxes) - box_center(reference), size)
    return torch.cat((shift, safe_log(box_size(boxes)) - safe_log(size)), -1)


@checked
def decode_deltas(deltas: Float[Tensor, "*#batch 4"], reference: Float[Tensor, "*#batch 4"]) -> Float[Tensor, "*#batch 4"]:
    """The boxes that `deltas` say lie relative to `reference`: the inverse of `encode_deltas`, for deltas of any size.

    torchvision and mmdetection bound the last two deltas by ln(1000 / 16) first, mmdetection from below, too.
    """
    deltas, reference = widen(deltas), widen(reference)
    size = box_size(reference)
    return box_around(box_center(reference) + deltas[..., :2] * size, size * deltas[..., 2:].exp())


@checked
def scale_deltas(deltas: Float[Tensor, "*batch 4"], *, center: float, size: float) -> Float[Tensor, "*batch 4"]:
    """In another unit: what deltas say of the centre times one number, and what they say of the size times another."""
    deltas = widen(deltas)
    return torch.cat((deltas[..., :2] * center, deltas[..., 2:] * size), -1)


@checked
def clip_boxes(boxes: Float[Tensor, "*#batch 4"], image_size: Float[Tensor, "*#batch 2"]) -> Float[Tensor, "*#batch 4"]:
    """Boxes cut off at the border of an image with this width and height; one beyond it has no area."""
    return nonnegative(boxes).minimum(torch.cat((image_size, image_size), -1).to(boxes.dtype))


@checked
def mask_box(mask: Bool[Tensor, "*batch n m"]) -> Int[Tensor, "*batch 4"]:
    """The tight box around the pixels of a mask, `(x1, y1, x2, y2)`, where pixel `i` reaches from `i` to `i + 1`; zeros without any."""
    left, right = _extent(mask.any(-2))
    top, bottom = _extent(mask.any(-1))
    return torch.stack((left, top, right, bottom), -1)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """From where to where along the last dimension; 0 and 0 where nothing is."""
    first = (occupied.cumsum(-1) == 0).sum(-1)
    last = (occupied.flip(-1).cumsum(-1) > 0).sum(-1)
    return first.where(occupied.any(-1), 0), last
