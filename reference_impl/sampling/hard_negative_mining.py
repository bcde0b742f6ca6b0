"""Hard negative mining: Liu, Anguelov, Erhan, Szegedy, Reed, Fu and Berg, ECCV 2016 (SSD)."""

from jaxtyping import Bool, Float
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen
from reference_impl.ops.select import take

__all__ = ["hard_negative_mining"]


@checked
def hard_negative_mining(
    loss: Float[Tensor, "*batch n"], positive: Bool[Tensor, "*batch n"], negative: Bool[Tensor, "*batch n"], *, ratio: float = 3
) -> Float[Tensor, "*batch n"]:
    r"""Keeps all positives of an image, and of its negatives the few that the classifier gets most wrong.

    $$ \mathcal{N}' = \text{the } \min(\lfloor r |\mathcal{P}| \rfloor, |\mathcal{N}|) \text{ negatives of highest loss} $$

    An image without positives has no negatives either: it does not train the classifier. The paper divides the sum of all losses by the
    number of positives.

    Args:
        loss: classification loss of each box, >= 0; that of positives is not used.
        positive: the boxes with an object.
        negative: the boxes without.
        ratio: number $r$ of negatives for each positive.

    Returns:
        1 for each positive and each chosen negative, 0 for every other box.
    """
    hardest = take(loss, negative, positive.sum(-1, keepdim=True) * ratio)
    return hardest.logical_or_(positive).to(widen(loss))
