"""Online foreground balanced sampling: Oksuz, Cam, Akbas and Kalkan, WACV 2020."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import safe_log, widen
from reference_impl.ops.select import take

__all__ = ["online_foreground_balanced"]


@checked
def online_foreground_balanced(
    labels: Int[Tensor, "*batch n"],
    positive: Bool[Tensor, "*batch n"],
    noise: Float[Tensor, "*batch n"] | None = None,
    *,
    num_positives: int = 128,
) -> Float[Tensor, "*batch n"]:
    r"""Draws positives so that each class in the batch is as likely as any other to be next, however few boxes it has.

    $$ p_i = \frac{1}{K} \cdot \frac{1}{n_{c(i)}} $$

    is the chance that box $i$ is drawn first, where $K$ classes have positives and $n_c$ is how many class $c$ has. Boxes are drawn one
    after the other in proportion to $p_i$ and not put back, which is what the highest of $n_{c(i)} \ln u_i$ do for uniform $u_i$. A class
    with few boxes is used up in the end; if there are no more than `num_positives`, all are taken.

    Args:
        labels: class of each positive, >= 0; what stands for other boxes is not used.
        positive: the boxes to draw from.
        noise: $u$, uniform in [0, 1); a fresh draw by default.
        num_positives: how many to draw.

    Returns:
        1 for each drawn positive and 0 for every other box. Negatives are left to another method.
    """
    noise = torch.rand(labels.shape, device=labels.device) if noise is None else widen(noise.detach())
    key = torch.where(positive, labels, -1).contiguous()
    ordered = key.sort(-1).values
    same = torch.searchsorted(ordered, key, right=True) - torch.searchsorted(ordered, key)
    return take(same * safe_log(noise), positive, num_positives).to(noise)
