"""Soft-balance sampling with hybrid training: Peng, Bu, Sun, Zhang, Tan and Yan, CVPR 2020."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.dense import row_blocks
from reference_impl.ops.numerics import safe_divide, widen

__all__ = ["soft_balance_sampling"]


@checked
def soft_balance_sampling(
    has_label: Bool[Tensor, "*batch n c"], progress: Float[Tensor, "*batch"], *, alpha: float = 0.7, start: float = 0.5
) -> Float[Tensor, "*batch n"]:
    r"""Draws images of rare classes more often, but not as often as those of frequent ones; and in the first phase all images alike.

    $$ w_i = \sum_{c \in i} \frac{P(c)}{N_c}, \qquad P(c) = \frac{N_c^{1 - \alpha}}{\sum_k N_k^{1 - \alpha}} $$

    A class is drawn, then one of the images that show it. With $\alpha = 0$ classes come as they do in the data, so that an image counts
    once for each of its classes; with $\alpha = 1$ each class is as likely as any other, and the images of a rare one come again and
    again. Before a share `start` of the training is over, images are drawn as they come, so that none is missed.

    Args:
        has_label: whether an image shows a class, for each image of the training set.
        progress: share of the training that is over, in [0, 1].
        alpha: $\alpha$.
        start: where soft balance begins.

    Returns:
        The probability of each image in the next draw. They add up to 1, or to 0 if no image shows anything.
    """
    blocks = [has_label[..., rows, :] for rows in row_blocks(has_label)]
    count = torch.stack([shows.sum(-2, dtype=torch.int32) for shows in blocks]).sum(0).double()
    each = torch.where(count > 0, count.pow(-alpha), 0)
    each = safe_divide(each, (each * count).sum(-1, keepdim=True))
    balanced = torch.cat([(shows.double() @ each[..., None]).squeeze(-1) for shows in blocks], -1)
    return torch.where(progress[..., None] < start, 1 / max(has_label.shape[-2], 1), balanced).to(widen(progress).dtype)
