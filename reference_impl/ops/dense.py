"""Losses that are a sum over the classes of a box, at the speed of memory.

A detector sorts some 100 000 boxes into some 100 classes, and nearly all of these entries are negatives. So the entries are handled as if
all were, in blocks that stay in the processor's cache, and the one entry of a box's own class is put in after: there is no one-hot target.
A block's gradient is made while the block is there, so that the only large tensor is the gradient itself.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reference_impl.ops.numerics import is_plain

__all__ = ["own_class", "row_blocks", "sum_over_classes"]

Formula = Callable[[Tensor, Tensor], Tensor]
Kernel = Callable[[Tensor, bool, slice], tuple[Tensor, Tensor]]

# In entries: up to which the formula is as fast, and what a processor's cache holds. Elsewhere blocks only bound the memory.
SMALL = 2**12
PER_THREAD = 2**18
AT_ONCE_ELSEWHERE = 2**24


def sum_over_classes(logits: Tensor, labels: Tensor, formula: Formula, kernel: Kernel) -> Tensor:
    """What `formula` says, forward and backward, with the arithmetic of `kernel` where that is possible and pays.

    `formula` is used for little input, while a compiler traces, inside the transforms of `torch.func`, in forward-mode differentiation, and
    for a gradient that is differentiated again.

    Args:
        logits: `[*batch n c]`, not in half precision.
        labels: `[*batch n]`, 0 to c - 1; any other number is background.
        formula: `(logits, labels)` -> the loss of each box, differentiable, each box by itself.
        kernel: `(x, own, rows)` -> the loss of each entry of `x` and its derivative, in new tensors. `own` says whether all of `x` are
            logits of their box's own class, `[rows 1]`, or none is, `[rows c]`; `rows` which boxes they are of, all images in a row.

    Returns:
        One loss for each box.
    """
    if logits.numel() < SMALL or not is_plain(logits):
        return formula(logits, labels)
    if not (torch.is_grad_enabled() and logits.requires_grad):
        return _by_blocks(logits, labels, kernel, with_gradient=False)[0]
    loss: Tensor = _SumOverClasses.apply(logits, labels, formula, kernel)  # type: ignore[no-untyped-call]
    return loss


def own_class(labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Where to find the one entry of each box that is not a negative, and whether there is one: index and mask, `[*batch n 1]`."""
    labels = labels[..., None].long()
    index = labels.clamp(0, classes - 1)
    return index, index == labels


def row_blocks(x: Tensor) -> list[slice]:
    """Parts of the last but one dimension, each small enough to stay in cache; all in one while a compiler traces."""
    if torch.compiler.is_compiling() or x.numel() < SMALL:
        return [slice(None)]
    entries = PER_THREAD * torch.get_num_threads() if x.device.type == "cpu" else AT_ONCE_ELSEWHERE
    rows = max(1, entries * x.shape[-2] // x.numel())
    return [slice(start, start + rows) for start in range(0, x.shape[-2], rows)]


class _SumOverClasses(torch.autograd.Function):
    """The first backward scales the gradient that `forward` made and gives it away; a later one makes it anew."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, formula: Formula, kernel: Kernel) -> Tensor:
        ctx.save_for_backward(logits, labels)
        ctx.formula, ctx.kernel = formula, kernel
        loss, ctx.gradient = _by_blocks(logits, labels, kernel, with_gradient=True)
        return loss

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:
        if torch.is_grad_enabled() or not is_plain(outer):
            logits, labels = ctx.saved_tensors
            with torch.enable_grad():
                loss = ctx.formula(logits, labels)
            return *torch.autograd.grad(loss, logits, outer, create_graph=torch.is_grad_enabled()), None, None, None
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            logits, labels = ctx.saved_tensors
            _, gradient = _by_blocks(logits, labels, ctx.kernel, with_gradient=True)
        return gradient.mul_(outer[..., None]), None, None, None


def _by_blocks(logits: Tensor, labels: Tensor, kernel: Kernel, *, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """The loss of each box, and the gradient of their sum."""
    classes = logits.shape[-1]
    x, y = logits.reshape(-1, classes), labels.reshape(-1)
    loss = torch.empty_like(x[:, 0])
    gradient = torch.empty_like(x, memory_format=torch.contiguous_format) if with_gradient else None
    for rows in row_blocks(x):
        index, is_class = own_class(y[rows], classes)
        own_loss, own_slope = kernel(x[rows].gather(-1, index), True, rows)
        others_loss, others_slope = kernel(x[rows], False, rows)
        loss[rows] = _put(others_loss, index, is_class, own_loss).sum(-1)
        if gradient is not None:
            gradient[rows] = _put(others_slope, index, is_class, own_slope)
    return loss.view(labels.shape), None if gradient is None else gradient.view(logits.shape)


def _put(block: Tensor, index: Tensor, wanted: Tensor, own: Tensor) -> Tensor:
    """Overwrite one entry of each wanted row."""
    return block.scatter_(-1, index, torch.where(wanted, own, block.gather(-1, index)))
