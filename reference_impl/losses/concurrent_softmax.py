"""Concurrent softmax: Peng, Bu, Sun, Zhang, Tan and Yan, CVPR 2020."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from reference_impl.ops.checked import checked
from reference_impl.ops.gradient import with_gradient
from reference_impl.ops.numerics import entropy_of_class, is_plain, safe_log, widen
from reference_impl.ops.opaque import opaque

__all__ = ["concurrent_scores", "concurrent_softmax"]


@checked
def concurrent_softmax(
    logits: Float[Tensor, "*batch n c"], has_label: Bool[Tensor, "*batch n c"], concurrence: Float[Tensor, "c c"]
) -> Float[Tensor, "*batch n"]:
    r"""Softmax cross entropy in which a class is not pushed down by another that the same object has, or is likely to have.

    $$ L = -\sum_i y_i \ln \sigma^*_i, \qquad \sigma^*_i = \frac{e^{x_i}}{e^{x_i} + \sum_{j \ne i} (1 - y_j)(1 - r_{ij})\,e^{x_j}} $$

    With one label for each box and $r = 0$ it is softmax cross entropy. The sums of exponentials are taken relative to their highest term,
    or in float64, so that a class of low score keeps its say beside one of high score that does not compete. The rates are constants: no
    gradient passes through them.

    Args:
        logits: $x$, one for each of $C$ classes, background among them.
        has_label: $y$, the classes that a box is labelled with, one or several.
        concurrence: $r_{ij}$, how often an object of class $i$ is of class $j$, too, in [0, 1]; 1 for a parent of $i$ in the hierarchy of
            classes, 0 to and from background. Its diagonal is not used.

    Returns:
        One loss for each box, >= 0; 0 for a box without a label.

    Raises:
        ValueError: the shapes do not fit together.
    """
    logits = widen(logits)
    # Few classes are labels, but a device would have to wait for which.
    if logits.device.type == "cpu":
        boxes, labels = logits.flatten(0, -2), has_label.flatten(0, -2)
        if is_plain(logits):
            loss, *_ = _loss_of_labels(boxes, labels, concurrence)
            return loss.view(logits.shape[:-1])
        if torch.compiler.is_compiling():
            loss, gradient = _loss_and_gradient(boxes.detach(), labels, concurrence.detach())
            return with_gradient(loss, boxes, gradient).view(logits.shape[:-1])
    rivals = _log_rivals(logits, (~has_label).double(), concurrence)
    return torch.where(has_label, softplus(rivals - logits.double()), 0).sum(-1).to(logits.dtype)


@checked
def concurrent_scores(logits: Float[Tensor, "*batch n c"], concurrence: Float[Tensor, "c c"]) -> Float[Tensor, "*batch n c"]:
    r"""Scores at inference: softmax without the competition of classes that come together.

    $$ \sigma^\dagger_i = \frac{e^{x_i}}{e^{x_i} + \sum_{j \ne i} (1 - r_{ij})\,e^{x_j}} $$

    No gradient passes through the rates.

    Args:
        logits: as for `concurrent_softmax`.
        concurrence: as for `concurrent_softmax`.

    Returns:
        One score for each box and class, in [0, 1]; those of a box need not add up to 1.
    """
    rivals = _log_rivals(logits, torch.ones_like(logits, dtype=torch.float64), concurrence)
    return logsigmoid(widen(logits).double() - rivals).exp().to(widen(logits).dtype)


def _loss_of_labels(logits: Tensor, has_label: Tensor, concurrence: Tensor) -> tuple[Tensor, ...]:
    """The loss of each box, and of each label its box, its class and the logarithms of the shares in its softmax."""
    box, own = has_label.nonzero().unbind(-1)
    nothing = torch.finfo(logits.dtype).min / 4
    competition = (1 - concurrence.detach().to(logits.dtype)).log_().clamp_(min=nothing)
    competition = competition.index_select(0, own).masked_fill_(has_label.index_select(0, box), nothing).scatter_(1, own[:, None], 0)
    log_share = (logits.index_select(0, box) + competition).log_softmax(-1)
    return torch.zeros_like(logits[:, 0]).index_add(0, box, entropy_of_class(log_share, own)), box, own, log_share


@opaque(lambda logits, *_: (logits.new_empty(logits.shape[:1]), torch.empty_like(logits)))
def _loss_and_gradient(logits: Tensor, has_label: Tensor, concurrence: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each box and its derivative, by hand, as a compiler does not look into either."""
    loss, box, own, log_share = _loss_of_labels(logits, has_label, concurrence)
    share = log_share.exp_()
    share[torch.arange(len(box), device=box.device), own] -= 1
    return loss, torch.zeros_like(logits).index_add_(0, box, share)


def _log_rivals(logits: Tensor, counts: Tensor, concurrence: Tensor) -> Tensor:
    """Logarithm of what stands in the denominator of each class beside its own exponential, in float64."""
    logits = logits.double()
    highest = logits.detach().amax(-1, keepdim=True)
    diagonal = torch.eye(concurrence.shape[-1], dtype=torch.bool, device=concurrence.device)
    competition = torch.where(diagonal, 0, 1 - concurrence.detach().double())
    return safe_log((counts * (logits - highest).exp()) @ competition.mT) + highest
