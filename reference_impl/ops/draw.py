"""Random choice as a function of uniform numbers: the inverse of a cumulative distribution."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import safe_divide

__all__ = ["inverse_cdf"]


@checked
def inverse_cdf(
    weight: Float[Tensor, "*batch n"], noise: Float[Tensor, "*batch m"]
) -> tuple[Int[Tensor, "*batch m"], Float[Tensor, "*batch m"]]:
    """The element into whose share of the weight each number falls: uniform numbers draw elements in proportion to their weights.

    Args:
        weight: numbers >= 0, of any sum.
        noise: in [0, 1), of the dtype of the weights; with many elements, that should be double.

    Returns:
        The element, the first if none has weight; and how far into its share the number lies, in [0, 1], uniform again and independent
        of the element.
    """
    weight = pad(weight, (0, 1))
    end = weight.cumsum(-1)
    target = noise * end[..., -1:]
    last = (torch.arange(weight.shape[-1], device=weight.device) * (weight > 0)).amax(-1, keepdim=True)
    index = torch.searchsorted(end, target.contiguous(), right=True).minimum(last)
    width = weight.gather(-1, index)
    return index, safe_divide(target - end.gather(-1, index) + width, width).clamp(0, 1)
