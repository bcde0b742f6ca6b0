"""Distribution focal loss: Li, Wang, Wu, Chen, Hu, Li, Tang and Yang, NeurIPS 2020."""

import torch
from jaxtyping import Float
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import entropy_of_class, widen

__all__ = ["distribution_focal_loss", "expected_distance"]


@checked
def distribution_focal_loss(logits: Float[Tensor, "*batch n bins"], target: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    r"""Gathers the distribution over a box side's possible distances on the two whole numbers beside the true one.

    $$ L = -\big( (i + 1 - y) \ln S_i + (y - i) \ln S_{i+1} \big), \qquad i = \lfloor y \rfloor, \quad S = \mathrm{softmax}(x) $$

    Its minimum is at $S_i = i + 1 - y$ and $S_{i+1} = y - i$, where `expected_distance` is $y$. The authors weigh a box by its highest
    class score, divide by four sides and by the sum of those weights, and take the loss times 1/4 beside that of the box's IoU.

    Args:
        logits: $x$, one for each of the distances 0, 1, ..., `bins` - 1.
        target: $y$, the true distance of the side from the anchor point, in the same unit, as a rule strides of the feature map. A value
            outside of the distances counts as the nearest of them.

    Returns:
        One loss for each side, >= 0: not 0 at its minimum unless $y$ is a whole number.

    Raises:
        ValueError: there are fewer than two distances, or the shapes do not fit together.
    """
    last = logits.shape[-1] - 1
    if last < 1:
        raise ValueError(f"distribution_focal_loss: `logits` has {last + 1} distances; expected at least 2")
    log_share = widen(logits).log_softmax(-1)
    target = widen(target).clamp(0, last)
    left = target.long().clamp(max=last - 1)
    share = (target - left).to(log_share.dtype)
    return torch.lerp(entropy_of_class(log_share, left), entropy_of_class(log_share, left + 1), share)


@checked
def expected_distance(logits: Float[Tensor, "*batch n bins"]) -> Float[Tensor, "*batch n"]:
    r"""The distance that a side is decoded to: the mean of its distribution.

    $$ \hat y = \sum_i i\,S_i $$

    Args:
        logits: one for each of the distances 0, 1, ..., `bins` - 1.

    Returns:
        One distance for each side, in [0, `bins` - 1].
    """
    share = widen(logits).softmax(-1)
    return (share * torch.arange(logits.shape[-1], dtype=share.dtype, device=share.device)).sum(-1)
