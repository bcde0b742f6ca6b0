# expect: 1:1: begins without a docstring; expected the method, its authors, venue and year
from jaxtyping import Float
from torch import Tensor

from reference_impl.ops.checked import checked

__all__ = ["a_method"]


@checked
def a_method(pred: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Something."""
    return pred
