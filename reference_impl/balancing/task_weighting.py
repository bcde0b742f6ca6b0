"""Task weighting: a constant for each task's loss, as in Girshick, ICCV 2015."""

import torch
from jaxtyping import Float
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen

__all__ = ["task_weighting"]


@checked
def task_weighting(loss: Float[Tensor, "*batch n"], factor: Float[Tensor, "n"] | None = None) -> Float[Tensor, "*batch n"]:
    r"""Gives each task a constant weight, whatever the losses are.

    $$ L = \sum_{t} \lambda_t L_t $$

    The total loss is the sum of the losses times these weights. In Fast R-CNN both classification and box regression have $\lambda = 1$.

    Args:
        loss: $L_t$, one for each of $n$ tasks; only its shape and dtype count.
        factor: $\lambda_t \ge 0$, by default 1 for every task.

    Returns:
        One weight for each task. They are constants: no gradient passes through them.

    Raises:
        ValueError: there are not as many factors as tasks.
    """
    weight = torch.ones_like(widen(loss.detach()))
    return weight if factor is None else weight * factor.detach()
