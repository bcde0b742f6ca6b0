# expect: 1:1: __all__: must be a list of names, `a_method` or the class of that name among them
"""A method."""

from jaxtyping import Float
from torch import Tensor

from reference_impl.ops.checked import checked

@checked
def a_method(pred: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Something."""
    return pred
