"""Imbalance as one number: an imbalance problem is a skewed distribution of an input property, and this says how skewed it is."""

import torch
from jaxtyping import Num
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen

__all__ = ["effective_number", "shares"]


@checked
def shares(weight: Num[Tensor, "*batch n"]) -> Num[Tensor, "*batch n"]:
    """The part of the whole that each element has, in [0, 1]; all 0 where there is nothing.

    Args:
        weight: counts or amounts, not negative.
    """
    amount = widen(weight) if weight.is_floating_point() else weight.to(torch.get_default_dtype())
    return amount / amount.sum(-1, keepdim=True).clamp(min=torch.finfo(amount.dtype).tiny)


@checked
def effective_number(weight: Num[Tensor, "*batch n"]) -> Num[Tensor, "*batch"]:
    r"""How many equally common kinds would be as diverse as these: $n$ for perfect balance, 1 where one kind has everything.

    $$ n_{\mathrm{eff}} = \exp\Bigl(-\sum_i s_i \ln s_i\Bigr), \qquad s_i = \frac{w_i}{\sum_j w_j} $$

    The exponential of Shannon's entropy, which ecology calls the Hill number of order 1.

    Args:
        weight: $w_i$, counts or amounts of each kind, not negative: boxes of each class, negatives of each IoU bin, loss of each task.

    Returns:
        A number from 1 to $n$; 0 where there is nothing.
    """
    share = shares(weight)
    entropy: Tensor = torch.special.entr(share).sum(-1)
    return torch.where(share.sum(-1) > 0, entropy.exp(), 0)
