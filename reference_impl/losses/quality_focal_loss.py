"""Quality focal loss: Li, Wang, Wu, Chen, Hu, Li, Tang and Yang, NeurIPS 2020."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from reference_impl.ops.checked import checked
from reference_impl.ops.dense import focal_negatives, sum_over_classes
from reference_impl.ops.numerics import widen

__all__ = ["quality_focal_loss"]


@checked
def quality_focal_loss(
    logits: Float[Tensor, "*batch n c"], labels: Int[Tensor, "*batch n"], iou: Float[Tensor, "*batch n"], *, beta: float = 2.0
) -> Float[Tensor, "*batch n"]:
    r"""Teaches a class score to equal the IoU of the predicted box; a score counts the more, the further it is from that.

    $$ L = \sum_c -\lvert y_c - \sigma_c \rvert^\beta \, \big( (1 - y_c) \ln (1 - \sigma_c) + y_c \ln \sigma_c \big) $$

    $\sigma_c = \sigma(x_c)$, and $y_c$ is the box's IoU for its own class and 0 for all others. The weight is part of the loss and has a
    gradient; the IoU is a constant: no gradient passes to the box. The authors divide the sum over all boxes by the number of positives.

    Args:
        logits: $x$, one for each of $C$ foreground classes.
        labels: 0 to $C - 1$, or $C$ for background, for which every class has target 0.
        iou: IoU of the predicted box with its ground truth, in [0, 1]; what stands for background boxes is not used.
        beta: focusing parameter $\beta \ge 0$; 0 is cross entropy with soft targets.

    Returns:
        One loss for each box, >= 0. Where a target lies between 0 and 1 it is 0 at $\sigma_c = y_c$ only if $\beta > 0$.

    Raises:
        ValueError: the shapes do not fit together.
    """
    iou = widen(iou.detach().clone())
    tiny = torch.finfo(widen(logits).dtype).tiny

    def formula(logits: Tensor, labels: Tensor) -> Tensor:
        own = labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)
        target = torch.where(own, iou[..., None], 0).to(logits.dtype)
        distance = (target - logits.sigmoid()).abs()
        # From a square on, a power has both derivatives at 0.
        distance = distance if beta >= 2 else distance.clamp_min(tiny)
        return (distance**beta * binary_cross_entropy_with_logits(logits, target, reduction="none")).sum(-1)

    def kernel(x: Tensor, own: bool, rows: slice | Tensor, loss: Tensor, slope: Tensor, spare: Tensor) -> None:
        if not own:
            focal_negatives(x, beta, 1, loss, slope, spare)
            return
        target, score = iou.reshape(-1, 1)[rows].to(x.dtype), x.sigmoid()
        gap, entropy = score - target, softplus(x, threshold=50) - target * x
        distance = gap.abs().clamp_(min=tiny)
        weight = distance**beta
        rise = (weight / distance).mul_(gap.sign()).mul_(1 - score).mul_(score).mul_(beta)
        torch.mul(entropy, weight, out=loss)
        torch.addcmul(rise.mul_(entropy), weight, gap, out=slope)

    return sum_over_classes(widen(logits), labels, formula, kernel)
