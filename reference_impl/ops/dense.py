"""Losses that are a sum over the classes of a box, at the speed of memory.

A detector sorts some 100 000 boxes into some 100 classes, and nearly all of these entries are negatives. So the entries are handled as if
all were, in blocks that stay in the processor's cache, and the one entry of a box's own class is put in after: there is no one-hot target.
A block's gradient is made while the block is there, so that the only large tensor is the gradient itself, and all blocks are worked on in
the same small tensors, since getting new memory can take longer than filling it.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from reference_impl.ops.numerics import host_may_look, is_plain, safe_divide, unhooked

__all__ = ["entropy_of_negatives", "focal_negatives", "own_class", "own_logit_and_mean_of_others", "row_blocks", "sum_over_classes"]

Formula = Callable[[Tensor, Tensor], Tensor]
Kernel = Callable[[Tensor, bool, slice | Tensor, Tensor, Tensor, Tensor], object]

# Numbers of entries: up to the first a formula is as fast as blocks, of the second is a block that a core's cache holds, and of the third
# one elsewhere, where blocks only bound the memory.
SMALL = 2**14
PER_THREAD = 2**17
AT_ONCE_ELSEWHERE = 2**24


def sum_over_classes(logits: Tensor, labels: Tensor, formula: Formula, kernel: Kernel) -> Tensor:
    """What `formula` says, forward and backward, with the arithmetic of `kernel` where that is possible and pays.

    `formula` is used for little input, while a compiler traces, inside the transforms of `torch.func`, in forward-mode differentiation, and
    for a gradient that is differentiated again.

    Args:
        logits: `[*batch n c]`, not in half precision.
        labels: `[*batch n]`, 0 to c - 1; any other number is background.
        formula: `(logits, labels)` -> the loss of each box, differentiable, each box by itself. It may be asked once more in a backward
            pass, so of what else it and `kernel` use it needs a copy, if the caller may change that.
        kernel: `(x, own, rows, loss, slope, spare)` writes the loss of each entry of `x` and its derivative to `loss` and `slope`, and
            whatever it likes to `spare`. `own` says whether all of `x` are logits of their box's own class, `[rows 1]`, or none is,
            `[rows c]`; `rows` which boxes they are of, all images in a row.

    Returns:
        One loss for each box.
    """
    if logits.numel() < SMALL or not is_plain(logits):
        return formula(logits, labels)
    if not (torch.is_grad_enabled() and logits.requires_grad):
        return _by_blocks(logits, labels, kernel, with_gradient=False)[0]
    loss: Tensor = _SumOverClasses.apply(logits, labels, formula, kernel)  # type: ignore[no-untyped-call]
    return loss


def entropy_of_negatives(x: Tensor, error: Tensor, loss: Tensor, spare: Tensor) -> Tensor:
    r"""Writes $-\ln(1 - e) = \max(x, 0) - \ln(1 - \min(e, 1 - e))$ to `loss`, with $e = \sigma(x)$: one logarithm, precise at both ends."""
    torch.maximum(torch.neg(error, out=loss), torch.sub(error, 1, out=spare), out=loss).log1p_()
    return torch.sub(torch.clamp(x, min=0, out=spare), loss, out=loss)


def focal_negatives(x: Tensor, gamma: float, factor: float, loss: Tensor, slope: Tensor, spare: Tensor) -> None:
    r"""A `kernel` for negatives: $f\,\sigma(x)^\gamma \ln(1 + e^x)$ and its derivative, in half the time of automatic differentiation."""
    error = torch.sigmoid(x, out=slope)
    entropy_of_negatives(x, error, loss, spare)
    weight = torch.pow(error, gamma, out=spare).mul_(factor)
    loss.mul_(weight)
    torch.addcmul(weight.mul_(error), error.sub_(1), loss, value=-gamma, out=slope)


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
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() or not is_plain(outer):
            logits, labels = ctx.saved_tensors
            with torch.enable_grad():
                logits = unhooked(logits)
                loss = ctx.formula(logits, labels)
            return *torch.autograd.grad(loss, logits, outer, create_graph=torch.is_grad_enabled()), None, None, None
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            logits, labels = ctx.saved_tensors
            _, gradient = _by_blocks(logits, labels, ctx.kernel, with_gradient=True)
        return gradient.mul_(outer[..., None]), None, None, None


def _by_blocks(logits: Tensor, labels: Tensor, kernel: Kernel, *, with_gradient: bool) -> tuple[Tensor, Tensor | None]:
    """The loss of each box, and the gradient of their sum. Tensors have one place more, for the own entry that background lacks."""
    x = logits.reshape(-1, logits.shape[-1])
    blocks = row_blocks(x)
    place, own_loss, own_slope, bounds = _own_entries(x, labels, kernel, [*(rows.start for rows in blocks), len(x)])
    loss = x.new_empty(labels.shape)
    of_row = loss.view(-1)
    gradient = x.new_empty(x.numel() + 1) if with_gradient else None
    scratch = [x.new_empty(x[blocks[0]].numel() + 1) for _ in range(2 if with_gradient else 3)]
    for rows, (begin, end) in zip(blocks, pairwise(bounds), strict=True):
        block, start = x[rows], rows.start * x.shape[-1]
        size = block.numel()
        flat = scratch if gradient is None else [*scratch, gradient[start : start + size]]
        others_loss, spare, slope = (t[:size].view(block.shape) for t in flat)
        kernel(block, False, rows, others_loss, slope, spare)
        own = (place[begin:end] - start).clamp_(max=size)
        scratch[0].scatter_(0, own, own_loss[begin:end])
        if gradient is not None:
            # Background's goes to the next block's first place, which that block overwrites.
            gradient[start:].scatter_(0, own, own_slope[begin:end])
        torch.sum(others_loss, -1, out=of_row[rows])
    return loss, None if gradient is None else gradient[:-1].view(logits.shape)


def _own_entries(x: Tensor, labels: Tensor, kernel: Kernel, bounds: list[int]) -> tuple[Tensor, Tensor, Tensor, list[int]]:
    """Where the own entries are among all, their losses and derivatives, and how many of them are of boxes before each of `bounds`.

    Background has none, but it has one in the place behind all where the others may not be counted.
    """
    index, is_class = (t.squeeze(-1) for t in own_class(labels.reshape(-1), x.shape[-1]))
    if host_may_look(is_class):
        box = is_class.nonzero().squeeze(-1)
        bounds = torch.searchsorted(box, box.new_tensor(bounds)).tolist()
    else:
        box = torch.arange(len(x), device=x.device)
    index, is_class = index[box], is_class[box]
    own = x[box, index][:, None]
    loss, slope, spare = (torch.empty_like(own) for _ in range(3))
    kernel(own, True, box, loss, slope, spare)
    place = index.add_(box, alpha=x.shape[-1]).masked_fill_(~is_class, x.numel())
    return place, loss.squeeze(-1), slope.squeeze(-1), bounds


def _scratch(block: Tensor, count: int) -> Tensor:
    """`count` tensors like `block`, without content, one after the other."""
    return block.new_empty((count, *block.shape))


def _put(block: Tensor, index: Tensor, wanted: Tensor, own: Tensor) -> Tensor:
    """Overwrite one entry of each wanted row."""
    return block.scatter_(-1, index, torch.where(wanted, own, block.gather(-1, index)))


def own_logit_and_mean_of_others(logits: Tensor, labels: Tensor, among: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    r"""The logit of each box for its own class, and the mean of all other scores, which leans towards the highest ones.

    $$ P = \sum_i q_i\,p_i, \qquad q_i \propto e^{p_i / T}, \qquad
    \frac{\partial P}{\partial p_i} = q_i \Bigl(1 + \frac{p_i - P}{T}\Bigr), \qquad p = \sigma(x) $$

    Args:
        logits: $x$, `[*batch n c]`, not in half precision.
        labels: `[*batch n]`, 0 to c - 1; any other number is background.
        among: the boxes whose scores count, `[*batch n]`; by default all.
        temperature: $T > 0$; the smaller, the more the highest scores count.

    Returns:
        A logit for each box, of any class for background, and one mean for each image, 0 where no score counts.
    """
    if logits.numel() < SMALL or not is_plain(logits):
        return _own_and_mean(logits, labels, among, temperature)
    if not (torch.is_grad_enabled() and logits.requires_grad):
        return _mean_by_blocks(logits, labels, among, temperature, with_gradient=False)[:2]
    own, mean = _OwnAndMean.apply(logits, labels, among, temperature)  # type: ignore[no-untyped-call]
    return own, mean


def _own_and_mean(logits: Tensor, labels: Tensor, among: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    own = logits.gather(-1, own_class(labels, logits.shape[-1])[0]).squeeze(-1)
    omitted = labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)
    omitted = (omitted if among is None else omitted | ~among[..., None]).flatten(-2)
    score = logits.sigmoid().flatten(-2)
    share = (score / temperature).masked_fill(omitted, torch.finfo(score.dtype).min).softmax(-1)
    return own, torch.where(omitted.all(-1), 0, (share * score).sum(-1))


class _OwnAndMean(torch.autograd.Function):
    """The first backward turns the scores that `forward` made into the gradient and gives it away; a later one makes them anew."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, among: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, labels, among)
        ctx.temperature = temperature
        own, mean, *ctx.begun = _mean_by_blocks(logits, labels, among, temperature, with_gradient=True)
        return own, mean

    @staticmethod
    def backward(ctx: Any, of_own: Tensor, of_mean: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, among = ctx.saved_tensors
        if torch.is_grad_enabled() or not (is_plain(of_own) and is_plain(of_mean)):
            with torch.enable_grad():
                logits = unhooked(logits)
                again = _own_and_mean(logits, labels, among, ctx.temperature)
            outer = of_own, of_mean
            return *torch.autograd.grad(again, logits, outer, create_graph=torch.is_grad_enabled()), None, None, None
        begun, ctx.begun = ctx.begun, None
        if begun is None:
            _, *begun = _mean_by_blocks(logits, labels, among, ctx.temperature, with_gradient=True)[1:]
        gradient, top, divisor, center = begun
        factor, center = safe_divide(of_mean, divisor)[..., None, None], center[..., None, None]
        index, of_own = own_class(labels, logits.shape[-1])[0], of_own[..., None]
        blocks = row_blocks(logits)
        scratch = _scratch(logits[..., blocks[0], :], 2)
        for rows in blocks:
            score = gradient[..., rows, :]
            weight, spare = scratch[..., : score.shape[-2], :]
            of_score = torch.add(score, center, out=spare).mul_(_weights(score, top, ctx.temperature, weight)).mul_(factor)
            slope = torch.ops.aten.sigmoid_backward.grad_input(of_score, score, grad_input=score)
            slope.scatter_add_(-1, index[..., rows, :], of_own[..., rows, :])
        return gradient, None, None, None


def _mean_by_blocks(
    logits: Tensor, labels: Tensor, among: Tensor | None, temperature: float, *, with_gradient: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor]:
    r"""The own logits, the mean, and what its gradient $w\,(p + c)\,p\,(1 - p) / s$ is made of: all $p$, the highest one, $s$ and $c$.

    The weights $w$ are relative to the highest score so far.
    """
    top = logits.new_zeros(logits.shape[:-2])
    total, weighed = torch.zeros_like(top), torch.zeros_like(top)
    index, is_class = own_class(labels, logits.shape[-1])
    own = logits.gather(-1, index).squeeze(-1)
    scores = torch.empty_like(logits, memory_format=torch.contiguous_format) if with_gradient else None
    # So low that nothing is left of its weight.
    omitted = logits.new_full((), -1000 * temperature)
    blocks = row_blocks(logits)
    scratch = _scratch(logits[..., blocks[0], :], 1 if with_gradient else 2)
    for rows in blocks:
        block = logits[..., rows, :]
        weight, *spare = scratch[..., : block.shape[-2], :]
        score = torch.sigmoid(block, out=spare[0] if scores is None else scores[..., rows, :])
        _put(score, index[..., rows, :], is_class[..., rows, :], omitted)
        if among is not None:
            score.masked_fill_(~among[..., rows, None], omitted)
        higher = torch.maximum(top, score.amax((-2, -1)))
        _weights(score, higher, temperature, weight)
        factor = ((top - higher) / temperature).exp_()
        total = total * factor + weight.sum((-2, -1))
        weighed = weighed * factor + weight.mul_(score).sum((-2, -1))
        top = higher
    mean = safe_divide(weighed, total)
    return own, mean, scores, top, total * temperature, temperature - mean


def _weights(score: Tensor, top: Tensor, temperature: float, out: Tensor) -> Tensor:
    """The exponentials of scores relative to the highest one; `exp2` takes a third of the time of `exp`."""
    sharpness = math.log2(math.e) / temperature
    return torch.add((-sharpness * top)[..., None, None], score, alpha=sharpness, out=out).exp2_()
