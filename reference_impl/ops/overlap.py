"""Similarities of pairs of boxes, with the gradient made beside the value: to differentiate their many small steps one by one costs more.

x and y are two rows of one tensor. A similarity depends on some extents of a pair: the sides of the intersection, of each box, and of the
enclosing box, and how far the centers are apart. What a corner has to do with an extent is the same for all similarities, and so is what
the sides of a box have to do with its area; a kernel is what makes them differ.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reference_impl.ops.numerics import is_plain, unhooked

__all__ = ["diou_kernel", "giou_kernel", "iou_kernel", "similarity"]

Formula = Callable[[Tensor, Tensor], Tensor]
Kernel = Callable[["Pair"], tuple[Tensor, "Slopes"]]


class Pair:
    """Two sets of boxes, their corners `[2 *batch]`, and extents; sides that are negative count as 0."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b
        self.lower, self.upper = a.chunk(2)
        self.other_lower, self.other_upper = b.chunk(2)
        self.inner = torch.minimum(self.upper, self.other_upper).sub_(torch.maximum(self.lower, self.other_lower))
        self.first, self.second = self.upper - self.lower, self.other_upper - self.other_lower

    def outer(self) -> Tensor:
        """Sides of the enclosing box."""
        return torch.maximum(self.upper, self.other_upper).sub_(torch.minimum(self.lower, self.other_lower))

    def between(self) -> Tensor:
        """Twice the way from the second center to the first."""
        return (self.lower + self.upper).sub_(self.other_lower).sub_(self.other_upper)


class Slopes(NamedTuple):
    """Derivatives by the areas of intersection and union, `[*batch]`, and by what `Pair` has methods for, `[2 *batch]`."""

    shared: Tensor
    union: Tensor
    outer: Tensor | None = None
    between: Tensor | None = None


def similarity(a: Tensor, b: Tensor, formula: Formula, kernel: Kernel) -> Tensor:
    """What `formula` says, forward and backward, with the arithmetic of `kernel` where that is possible and a gradient is wanted.

    `formula` is used for boxes that broadcast, while a compiler traces, inside the transforms of `torch.func`, in forward-mode
    differentiation, and for a gradient that is differentiated again.

    Args:
        a: boxes, `[*batch 4]`, not in half precision.
        b: others.
        formula: similarity of two sets of boxes, each pair by itself; symmetric.
        kernel: the extents of a pair -> the same, and its derivatives.

    Returns:
        One number for each pair.
    """
    wants_gradient = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
    if not wants_gradient or not (is_plain(a) and is_plain(b)) or a.shape != b.shape or a.dtype != b.dtype:
        return formula(a, b)
    value: Tensor = _Similarity.apply(a, b, formula, kernel)  # type: ignore[no-untyped-call]
    return value


def iou_kernel(pair: Pair) -> tuple[Tensor, Slopes]:
    """Of `box_iou`."""
    iou, _, slopes = _iou(pair)
    return iou, slopes


def giou_kernel(pair: Pair) -> tuple[Tensor, Slopes]:
    """Of `box_giou`."""
    iou, union, slopes = _iou(pair)
    outer = pair.outer()
    enclosing = _area(outer)
    positive = _positive(enclosing)
    giou = iou.sub_(enclosing.sub_(union).div_(positive))
    by_enclosing = union.div_(positive).div_(positive).neg_()
    return giou, Slopes(slopes.shared, slopes.union.add_(positive.reciprocal_()), _by_sides(outer, by_enclosing))


def diou_kernel(pair: Pair) -> tuple[Tensor, Slopes]:
    """Of `box_diou`."""
    iou, _, slopes = _iou(pair)
    outer, between = pair.outer(), pair.between()
    diagonal = _positive(outer.square().sum(0))
    far = between.square().sum(0).div_(diagonal).div_(4)
    diou = iou.sub_(far)
    by_outer = outer.mul_(far.div_(diagonal).mul_(2))
    return diou, Slopes(slopes.shared, slopes.union, by_outer, between.div_(diagonal.mul_(-2)))


def _iou(pair: Pair) -> tuple[Tensor, Tensor, Slopes]:
    """IoU, the area of the union, and derivatives."""
    shared = _area(pair.inner)
    union = _area(pair.first).add_(_area(pair.second)).sub_(shared)
    positive = _positive(union)
    iou = shared.div_(positive)
    return iou, union, Slopes(positive.reciprocal(), (iou / positive).neg_())


def _area(sides: Tensor) -> Tensor:
    width, height = sides.relu().unbind()
    return width * height


def _by_sides(sides: Tensor, by_area: Tensor) -> Tensor:
    """Derivatives by the sides: each other side, times what the area counts, and nothing by a side below 0."""
    return sides.relu().flip(0).copysign_(sides).relu_().mul_(by_area)


def _positive(x: Tensor) -> Tensor:
    """`x`, but infinity where that is 0, so that nothing comes of a division by it."""
    return x.masked_fill(x.logical_not(), torch.inf)


def _by_corners(a: Tensor, b: Tensor, inner: Tensor, own: Tensor, outer: Tensor | None, between: Tensor | None) -> Tensor:
    """Derivatives by the corners of `a`, from those by the extents. Of corners that coincide, either has half a share, as torch has it."""
    share = (a - b).view(2, 2, *a.shape[1:])
    share[0].neg_()
    share = share.new_full((), 0.5).sub(share.sgn_(), alpha=0.5)
    slope = share.mul_(inner) if outer is None else torch.lerp(outer, inner, share)
    slope.add_(own)[0].neg_()
    return (slope if between is None else slope.add_(between)).flatten(0, 1)


class _Similarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, formula: Formula, kernel: Kernel) -> Tensor:
        pair = Pair(*torch.stack((a, b)).movedim(-1, 1).contiguous().unbind())
        value, by = kernel(pair)
        inner = _by_sides(pair.inner, by.shared.sub_(by.union))
        gradients = []
        if ctx.needs_input_grad[0]:
            gradients.append(_by_corners(pair.a, pair.b, inner, _by_sides(pair.first, by.union), by.outer, by.between))
        if ctx.needs_input_grad[1]:
            back = None if by.between is None else -by.between
            gradients.append(_by_corners(pair.b, pair.a, inner, _by_sides(pair.second, by.union), by.outer, back))
        ctx.save_for_backward(a, b, *gradients)
        ctx.formula = formula
        return value

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        a, b, *ready = ctx.saved_tensors
        if torch.is_grad_enabled() or not is_plain(outer):
            with torch.enable_grad():
                a, b = unhooked(a), unhooked(b)
                value = ctx.formula(a, b)
            wanted = [x for x, needed in zip((a, b), ctx.needs_input_grad, strict=False) if needed]
            gradients = iter(torch.autograd.grad(value, wanted, outer, create_graph=torch.is_grad_enabled()))
        else:
            gradients = (torch.mul(x.movedim(0, -1), outer[..., None], out=torch.empty_like(a)) for x in ready)
        return tuple(next(gradients) if needed else None for needed in ctx.needs_input_grad)
