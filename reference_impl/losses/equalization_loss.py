"""Equalization loss: Tan, Wang, Li, Li, Ouyang, Yin and Yan, CVPR 2020."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from reference_impl.ops.checked import checked
from reference_impl.ops.dense import entropy_of_negatives, sum_over_classes
from reference_impl.ops.numerics import widen

__all__ = ["equalization_loss", "equalization_weight"]


@checked
def equalization_weight(
    labels: Int[Tensor, "*batch n"], frequency: Float[Tensor, "c"], *, threshold: float = 0.00177
) -> Float[Tensor, "*batch n c"]:
    r"""Spares rare classes the gradients that push them down wherever a box shows an object of another class.

    $$ w_j = 1 - E(r)\,T_\lambda(f_j)\,(1 - y_j) $$

    $E(r)$ is 1 for a foreground box and 0 for background, $T_\lambda(f)$ is 1 where $f < \lambda$ and 0 otherwise, $y_j$ is 1 for the box's
    own class. On background every class stays a negative. The weight is a constant: no gradient passes through it.

    Args:
        labels: 0 to $C - 1$, or $C$ for background.
        frequency: $f_j$, the share of the training images that contain class $j$.
        threshold: $\lambda$; a class with a lower frequency is rare.

    Returns:
        0 for a rare class on a foreground box of another class, 1 for every other pair of box and class.
    """
    own = labels[..., None] == torch.arange(frequency.shape[-1], device=labels.device)
    return _counts(labels, own, frequency, threshold).to(widen(frequency).dtype)


@checked
def equalization_loss(
    logits: Float[Tensor, "*batch n c"], labels: Int[Tensor, "*batch n"], frequency: Float[Tensor, "c"], *, threshold: float = 0.00177
) -> Float[Tensor, "*batch n"]:
    r"""Sigmoid cross entropy in which objects of frequent classes do not discourage the rare ones.

    $$ L = -\sum_j w_j \ln \hat p_j, \qquad \hat p_j = \begin{cases} \sigma(x_j), & \text{if } y_j = 1 \\
    1 - \sigma(x_j), & \text{otherwise} \end{cases} $$

    with the $w_j$ of `equalization_weight`. The authors divide the sum over all sampled boxes, background included, by their number.

    Args:
        logits: $x$, one for each of $C$ foreground classes.
        labels: 0 to $C - 1$, or $C$ for background, for which every class is a negative.
        frequency: the share of the training images that contain each class.
        threshold: $\lambda$; a class with a lower frequency is rare, and 0 gives plain cross entropy.

    Returns:
        One loss for each box, >= 0.

    Raises:
        ValueError: the shapes do not fit together.
    """
    frequency = frequency.clone()

    def formula(logits: Tensor, labels: Tensor) -> Tensor:
        own = labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)
        weight = _counts(labels, own, frequency, threshold).to(logits.dtype)
        return binary_cross_entropy_with_logits(logits, own.to(logits.dtype), weight, reduction="none").sum(-1)

    def kernel(x: Tensor, own: bool, rows: slice | Tensor, loss: Tensor, slope: Tensor, spare: Tensor) -> None:
        if own:
            entropy_of_negatives(-x, torch.sigmoid(-x, out=slope), loss, spare)
            slope.neg_()
            return
        entropy_of_negatives(x, torch.sigmoid(x, out=slope), loss, spare)
        foreground = (labels.reshape(-1, 1)[rows] < frequency.shape[-1]).to(x.dtype)
        weight = torch.mul(foreground, -(widen(frequency) < threshold).to(x.dtype), out=spare).add_(1)
        loss.mul_(weight)
        slope.mul_(weight)

    return sum_over_classes(widen(logits), labels, formula, kernel)


def _counts(labels: Tensor, own: Tensor, frequency: Tensor, threshold: float) -> Tensor:
    """Whether a class is not rare, or the box's own, or the box is background."""
    background = (labels >= frequency.shape[-1])[..., None]
    return background | own | ~(widen(frequency) < threshold)
