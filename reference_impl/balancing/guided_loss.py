"""Guided loss: Chen, Liu, Xu, Zhang, Wu, Luo, Peng and Chen, arXiv 2019."""

import torch
from jaxtyping import Float
from torch import Tensor

from reference_impl.ops.checked import checked, require_positive
from reference_impl.ops.numerics import safe_divide, widen

__all__ = ["guided_loss"]


@checked
def guided_loss(loss: Float[Tensor, "*batch n"], *, w_reg: float = 1.0) -> Float[Tensor, "*batch n"]:
    r"""Brings the classification loss, which the background swells, to the size of the regression loss in every step.

    $$ w = \frac{w_{reg} L_{Reg}}{L_{cls}} $$

    is the weight of classification (survey, Eq. 24). $L_{Reg}$ is the sum of all losses but the first; each of these keeps the weight
    $w_{reg}$. The total loss is the sum of the losses times their weights. Classification then makes one half of it, and its gradient keeps
    its direction. No gradient passes through the weights: with one, the scaled loss of classification would be $w_{reg}L_{Reg}$, which does
    not depend on the classifier. With several processes, give `world_mean(loss)`.

    Args:
        loss: one for each of $n$ tasks, >= 0, classification first; each the sum over its boxes divided by its own normaliser, which for
            classification makes no difference.
        w_reg: weight $w_{reg} > 0$ of regression.

    Returns:
        One weight for each task. That of classification is 0 if its loss is 0, and in a batch without foreground, which then teaches
        nothing.

    Raises:
        ValueError: `w_reg` is not positive.
    """
    require_positive("guided_loss", w_reg=w_reg)
    loss = widen(loss.detach())
    classification, others = loss[..., :1], loss[..., 1:]
    ratio = safe_divide(others.sum(-1, keepdim=True), classification)
    return w_reg * torch.cat((ratio.expand_as(classification), torch.ones_like(others)), -1)
