"""Constant weight of boxes without an object: Redmon, Divvala, Girshick and Farhadi, CVPR 2016 (YOLO)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import is_plain, widen

__all__ = ["constant_weighting"]


@checked
def constant_weighting(
    loss: Float[Tensor, "*batch n"],
    positive: Bool[Tensor, "*batch n"],
    negative: Bool[Tensor, "*batch n"],
    *,
    foreground_weight: float = 1.0,
    background_weight: float = 0.5,
) -> Float[Tensor, "*batch n"]:
    r"""Halves what every background box contributes, whatever its score, so that the many do not push all scores to zero.

    $$ w_i = \begin{cases} w_{fg}, & \text{if } i \text{ is foreground} \\ w_{bg}, & \text{if } i \text{ is background} \end{cases} $$

    Survey, Sec. 4.1.2. The authors' code weighs the squared error of the confidence in this way, not a cross entropy.

    Args:
        loss: what is to be weighed, >= 0. The weights do not depend on its values; they have its dtype and device.
        positive: boxes with an object.
        negative: boxes without one.
        foreground_weight: weight $w_{fg} \ge 0$ of the former.
        background_weight: weight $w_{bg} \ge 0$ of the latter.

    Returns:
        One weight for each box, 0 for boxes that are neither.
    """
    weight = torch.zeros_like(widen(loss))
    # A transform may map one of the masks alone, which cannot be written into what is not mapped.
    fill = Tensor.masked_fill_ if is_plain(weight) else Tensor.masked_fill
    return fill(fill(weight, negative, background_weight), positive, foreground_weight)
