"""Losses that are a sum over the classes of a box, at the speed of memory.

A detector sorts some 100 000 boxes into some 100 classes, and nearly all of these entries are negatives. So the entries are handled as if
all were, in blocks that stay in the processor's cache, and the one entry of a box's own class is put in after: there is no one-hot target.
A block's gradient is made while the block is there, so that the only large tensor is the gradient itself.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from reference_impl.ops.numerics import is_plain, safe_divide

__all__ = ["mean_of_negatives", "own_class", "row_blocks", "sum_over_classes"]

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


def mean_of_negatives(logits: Tensor, labels: Tensor, among: Tensor, temperature: float) -> Tensor:
    r"""Mean of all scores but those of a box for its own class, which leans towards the highest ones.

    $$ P = \sum_i q_i\,p_i, \qquad q_i \propto e^{p_i / T}, \qquad
    \frac{\partial P}{\partial p_i} = q_i \Bigl(1 + \frac{p_i - P}{T}\Bigr), \qquad p = \sigma(x) $$

    Args:
        logits: $x$, `[*batch n c]`, not in half precision.
        labels: `[*batch n]`, 0 to c - 1; any other number is background.
        among: the boxes whose scores count, `[*batch n]`.
        temperature: $T > 0$; the smaller, the more the highest scores count.

    Returns:
        One mean for each image, 0 where no score counts.
    """
    if logits.numel() < SMALL or not is_plain(logits):
        return _mean_of_negatives(logits, labels, among, temperature)
    mean: Tensor = _MeanOfNegatives.apply(logits, labels, among, temperature)  # type: ignore[no-untyped-call]
    return mean


def _mean_of_negatives(logits: Tensor, labels: Tensor, among: Tensor, temperature: float) -> Tensor:
    counts = (labels[..., None] != torch.arange(logits.shape[-1], device=labels.device)) & among[..., None]
    score, counts = logits.sigmoid().flatten(-2), counts.flatten(-2)
    share = (score / temperature).masked_fill(~counts, torch.finfo(score.dtype).min).softmax(-1)
    return torch.where(counts, share * score, 0).sum(-1)


class _MeanOfNegatives(torch.autograd.Function):
    """Both directions go through the logits block by block; what a block's softmax is missing from the others is mended by factors."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, among: Tensor, temperature: float) -> Tensor:
        top = logits.new_full(logits.shape[:-2], torch.finfo(logits.dtype).min)
        total, weighed = torch.zeros_like(top), torch.zeros_like(top)
        for rows in row_blocks(logits):
            score, lean = _leaning(logits, labels, among, temperature, rows)
            higher = torch.maximum(top, lean.amax((-2, -1)))
            factor = (top - higher).exp()
            weight = lean.sub_(higher[..., None, None]).exp_()
            total = total * factor + weight.sum((-2, -1))
            weighed = weighed * factor + weight.mul_(score).sum((-2, -1))
            top = higher
        mean = safe_divide(weighed, total)
        ctx.save_for_backward(logits, labels, among, mean, top, total)
        ctx.temperature = temperature
        return mean

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:
        logits, labels, among, mean, top, total = ctx.saved_tensors
        if torch.is_grad_enabled() or not is_plain(outer):
            with torch.enable_grad():
                again = _mean_of_negatives(logits, labels, among, ctx.temperature)
            return *torch.autograd.grad(again, logits, outer, create_graph=torch.is_grad_enabled()), None, None, None
        factor = safe_divide(outer, total * ctx.temperature)[..., None, None]
        center = (ctx.temperature - mean)[..., None, None]
        gradient = torch.empty_like(logits, memory_format=torch.contiguous_format)
        for rows in row_blocks(logits):
            score, lean = _leaning(logits, labels, among, ctx.temperature, rows)
            share = lean.sub_(top[..., None, None]).exp_()
            slope = torch.sub(1, score).mul_(score)
            torch.mul(share.mul_(slope), score.add_(center).mul_(factor), out=gradient[..., rows, :])
        return gradient, None, None, None


def _leaning(logits: Tensor, labels: Tensor, among: Tensor, temperature: float, rows: slice) -> tuple[Tensor, Tensor]:
    """Scores of a block, and the scores over the temperature, minus infinity where they do not count."""
    score = logits[..., rows, :].sigmoid()
    lean = score / temperature
    index, is_class = own_class(labels[..., rows], logits.shape[-1])
    lean.scatter_(-1, index, torch.where(is_class, -torch.inf, lean.gather(-1, index)))
    return score, lean.masked_fill_(~among[..., rows, None], -torch.inf)
