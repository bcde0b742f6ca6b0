"""Dynamic task prioritisation: Guo, Haque, Huang, Yeung and Fei-Fei, ECCV 2018."""

import torch
from jaxtyping import Float
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen

__all__ = ["dynamic_task_prioritization", "moving_indicator"]


@checked
def dynamic_task_prioritization(
    indicator: Float[Tensor, "*batch n"], gamma: Float[Tensor, "n"] | None = None, *, lowest: float = 0.01
) -> Float[Tensor, "*batch n"]:
    r"""Gives the tasks that are done worst so far the largest weights, and one that is mastered none.

    $$ w_t = -(1 - \bar\kappa_t)^{\gamma_t} \ln \bar\kappa_t $$

    That is focal loss, with the success of a task in place of the probability of an example. The total loss is $\sum_t w_t L_t$; in the
    paper each $L_t$ is itself a focal loss over the examples of its task. No gradient passes through.

    Args:
        indicator: $\bar\kappa_t$, how well each of $n$ tasks is done, as accuracy or average precision on the training data, in [0, 1];
            smoothed by `moving_indicator`.
        gamma: $\gamma_t \ge 0$, how fast the weight falls as the task is done better; by default 1 for every task.
        lowest: $\kappa_{min}$ in (0, 1]; smaller indicators count as this; without it a task that always fails would have an infinite
            weight.

    Returns:
        One weight for each task, from 0 to $-\ln \kappa_{min}$.

    Raises:
        ValueError: there are not as many exponents as tasks.
    """
    indicator = widen(indicator.detach()).clamp(lowest, 1)
    exponent = torch.ones_like(indicator) if gamma is None else gamma.detach().to(indicator.dtype)
    return -((1 - indicator) ** exponent) * indicator.log()


@checked
def moving_indicator(
    indicator: Float[Tensor, "*batch n"], previous: Float[Tensor, "*batch n"] | None = None, *, share: float = 0.1
) -> Float[Tensor, "*batch n"]:
    r"""Smooths the indicators over the steps, since one batch says little of how well a task is done.

    $$ \bar\kappa_t \leftarrow \alpha\,\kappa_t + (1 - \alpha)\,\bar\kappa_t $$

    Args:
        indicator: $\kappa_t$ of this batch, in [0, 1].
        previous: $\bar\kappa_t$ after the last step; None in the first step, whose indicator is taken as it is.
        share: $\alpha$, what this batch counts, in (0, 1].

    Returns:
        $\bar\kappa_t$ for this step. No gradient passes through.
    """
    indicator = widen(indicator.detach())
    return indicator.clone() if previous is None else share * indicator + (1 - share) * previous.detach().to(indicator.dtype)
