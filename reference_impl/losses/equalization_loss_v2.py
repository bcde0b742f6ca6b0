"""Equalization loss v2: Tan, Lu, Zhang, Yin and Li, CVPR 2021."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from reference_impl.ops.checked import checked
from reference_impl.ops.dense import entropy_of_negatives, own_class, sum_over_classes
from reference_impl.ops.numerics import widen

__all__ = ["equalization_loss_v2", "equalization_v2_gradients", "equalization_v2_scores"]


@checked
def equalization_loss_v2(
    logits: Float[Tensor, "*batch n c"],
    labels: Int[Tensor, "*batch n"],
    positive_gradient: Float[Tensor, "c"],
    negative_gradient: Float[Tensor, "c"],
    background: Float[Tensor, "*batch n"] | None = None,
    *,
    gamma: float = 12.0,
    mu: float = 0.8,
    alpha: float = 4.0,
) -> Float[Tensor, "*batch n"]:
    r"""Sigmoid cross entropy that gives a class less push down and more pull up, the more it has been pushed down in training so far.

    $$ L = -\sum_j w_j \ln \hat p_j, \qquad w_j = \begin{cases} 1 + \alpha\,(1 - f(g_j)), & \text{if } j \text{ is the box's own class} \\
    f(g_j), & \text{otherwise} \end{cases} \qquad f(g) = \frac{1}{1 + e^{-\gamma (g - \mu)}} $$

    $\hat p_j$ is $\sigma(x_j)$ for the own class and $1 - \sigma(x_j)$ for the others; $g_j$ is the positive gradient that class $j$ has
    received since training began, divided by the negative one. The weights are constants: no gradient passes through them. The authors
    divide the sum over all sampled boxes by their number.

    Args:
        logits: $x$, one for each of $C$ foreground classes.
        labels: 0 to $C - 1$, or $C$ for background, for which every class is a negative.
        positive_gradient: the sum, over all steps so far, of the first of `equalization_v2_gradients`; zeros at the start.
        negative_gradient: that of the second. Where it is 0 the class counts as in balance, $f = 1$.
        background: logit of one more output, which is to tell whether a box is background; its cross entropy, with weight 1, is added.
        gamma: slope $\gamma$ of $f$.
        mu: ratio $\mu$ at which $f$ is one half.
        alpha: $\alpha \ge 0$, how much a positive may gain.

    Returns:
        One loss for each box, >= 0.

    Raises:
        ValueError: the shapes do not fit together.
    """
    logits = widen(logits)
    push = _push(positive_gradient, negative_gradient, gamma, mu).to(logits.dtype)

    def formula(logits: Tensor, labels: Tensor) -> Tensor:
        own = labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)
        weight = torch.where(own, 1 + alpha - alpha * push, push)
        return binary_cross_entropy_with_logits(logits, own.to(logits.dtype), weight, reduction="none").sum(-1)

    def kernel(x: Tensor, own: bool, rows: slice | Tensor, loss: Tensor, slope: Tensor, spare: Tensor) -> None:
        wrong, weight = (-x, 1 + alpha - alpha * push[own_class(labels.reshape(-1)[rows], len(push))[0]]) if own else (x, push)
        entropy_of_negatives(wrong, torch.sigmoid(wrong, out=slope), loss, spare).mul_(weight)
        slope.mul_(-weight if own else weight)

    loss = sum_over_classes(logits, labels, formula, kernel)
    if background is None:
        return loss
    background = widen(background)
    return loss - logsigmoid(torch.where(labels == logits.shape[-1], background, -background))


@checked
def equalization_v2_gradients(
    logits: Float[Tensor, "*batch n c"],
    labels: Int[Tensor, "*batch n"],
    positive_gradient: Float[Tensor, "c"],
    negative_gradient: Float[Tensor, "c"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    gamma: float = 12.0,
    mu: float = 0.8,
    alpha: float = 4.0,
) -> tuple[Float[Tensor, "*batch c"], Float[Tensor, "*batch c"]]:
    r"""What the boxes of this step add to the gradients of every class: how much they pull its logit up, and how much they push it down.

    $$ \sum_i y_{ij}\,w_{ij}\,\lvert \sigma(x_{ij}) - 1 \rvert, \qquad \sum_i (1 - y_{ij})\,w_{ij}\,\sigma(x_{ij}) $$

    The weights are those that the step was made with. Sum both over images and, with `world_sum`, over processes, and add them to the
    accumulated gradients for the next step. No gradient passes through.

    Args:
        logits: as for `equalization_loss_v2`.
        labels: as for `equalization_loss_v2`.
        positive_gradient: as for `equalization_loss_v2`.
        negative_gradient: as for `equalization_loss_v2`.
        valid: the others are not counted; by default all are valid.
        gamma: as for `equalization_loss_v2`.
        mu: as for `equalization_loss_v2`.
        alpha: as for `equalization_loss_v2`.

    Returns:
        Positive and negative gradient of each class, both >= 0.
    """
    logits = widen(logits.detach())
    push = _push(positive_gradient, negative_gradient, gamma, mu).to(logits.dtype)
    index, is_class = own_class(labels, logits.shape[-1])
    pull, score = (-logits.gather(-1, index)).sigmoid().masked_fill(~is_class, 0), logits.sigmoid()
    score = score.scatter(-1, index, score.gather(-1, index).masked_fill(is_class, 0))
    if valid is not None:
        pull, score = torch.where(valid[..., None], pull, 0), torch.where(valid[..., None], score, 0)
    pull = torch.zeros_like(score).scatter(-1, index, pull)
    return (1 + alpha - alpha * push) * pull.sum(-2), push * score.sum(-2)


@checked
def equalization_v2_scores(logits: Float[Tensor, "*batch n c"], background: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n c"]:
    r"""Scores at inference: a class has to be likely, and background unlikely.

    $$ s_j = \sigma(x_j)\,(1 - \sigma(b)) $$

    Args:
        logits: $x$, one for each of $C$ foreground classes.
        background: logit $b$ of the output that tells whether a box is background.

    Returns:
        One score for each box and class, in [0, 1].
    """
    return widen(logits).sigmoid() * (-widen(background)).sigmoid()[..., None]


def _push(positive: Tensor, negative: Tensor, gamma: float, mu: float) -> Tensor:
    """How much each class may be pushed down."""
    positive, negative = widen(positive.detach()), widen(negative.detach())
    return torch.where(negative > 0, (gamma * (positive / negative - mu)).sigmoid(), 1)
