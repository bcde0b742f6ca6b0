"""Focal loss: Lin, Goyal, Girshick, He and Dollár, ICCV 2017."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from reference_impl.ops.checked import checked
from reference_impl.ops.dense import focal_negatives, sum_over_classes
from reference_impl.ops.numerics import widen

__all__ = ["focal_loss", "focal_weight"]


@checked
def focal_weight(p_s: Float[Tensor, "*n"], *, gamma: float = 2.0) -> Float[Tensor, "*n"]:
    r"""Weighs an example down by how sure the classifier already is of its true class.

    $$ w_i = (1 - p_s)^\gamma $$

    Survey, Eq. 3.

    Args:
        p_s: probability of the true class, in [0, 1].
        gamma: focusing parameter $\gamma \ge 0$; 0 is plain cross entropy.

    Returns:
        One weight for each example, in [0, 1].
    """
    return _power(1 - widen(p_s), gamma)


@checked
def focal_loss(
    logits: Float[Tensor, "*batch n c"], labels: Int[Tensor, "*batch n"], *, gamma: float = 2.0, alpha: float = 0.25
) -> Float[Tensor, "*batch n"]:
    r"""Sigmoid cross entropy in which the many easy background boxes count next to nothing.

    $$ L = \sum_{c} -\alpha_c\,(1 - p_s)^\gamma \ln p_s $$

    For each class $c$ of a box, $p_s$ is $\sigma(x_c)$ and $\alpha_c = \alpha$ if $c$ is the box's label, $1 - \sigma(x_c)$ and
    $1 - \alpha$ if not. The paper divides the sum over all boxes by the number of boxes assigned to a ground truth.

    Args:
        logits: $x$, one for each of $C$ foreground classes.
        labels: 0 to $C - 1$, or $C$ for background, for which every class is a negative.
        gamma: focusing parameter $\gamma \ge 0$.
        alpha: weight $\alpha$ of a box's own class, in [0, 1].

    Returns:
        One loss for each box, >= 0.

    Raises:
        ValueError: `labels` does not have the shape of `logits` without its last dimension.
    """

    def formula(logits: Tensor, labels: Tensor) -> Tensor:
        own = labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)
        signed = torch.where(own, logits, -logits)
        weight = torch.where(own, logits.new_full((), alpha), 1 - alpha) * _power((-signed).sigmoid(), gamma)
        return (weight * -logsigmoid(signed)).sum(-1)

    def kernel(x: Tensor, own: bool, rows: slice | Tensor, loss: Tensor, slope: Tensor, spare: Tensor) -> None:
        focal_negatives(-x if own else x, gamma, alpha if own else 1 - alpha, loss, slope, spare)
        if own:
            slope.neg_()

    return sum_over_classes(widen(logits), labels, formula, kernel)


def _power(error: Tensor, gamma: float) -> Tensor:
    """`error` to the power of `gamma`; at an error of 0 the gradient is 0, also for an exponent below 1."""
    return error.clamp(min=torch.finfo(error.dtype).tiny) ** gamma
