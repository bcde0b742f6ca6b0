"""Soft-balance sampling with hybrid training: Peng, Bu, Sun, Zhang, Tan and Yan, CVPR 2020."""

from functools import reduce

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.dense import row_blocks
from reference_impl.ops.numerics import in_full_precision, is_plain, widen

__all__ = ["soft_balance_sampling"]


@checked
def soft_balance_sampling(
    has_label: Bool[Tensor, "*batch n c"], progress: Float[Tensor, "*batch"], *, alpha: float = 0.7, start: float = 0.5
) -> Float[Tensor, "*batch n"]:
    r"""Draws images of rare classes more often, but not as often as those of frequent ones; and in the first phase all images alike.

    $$ w_i = \sum_{c \in i} \frac{P(c)}{N_c}, \qquad P(c) = \frac{N_c^{1 - \alpha}}{\sum_k N_k^{1 - \alpha}} $$

    A class is drawn, then one of the images that show it. With $\alpha = 0$ classes come as they do in the data, so that an image counts
    once for each of its classes; with $\alpha = 1$ each class is as likely as any other, and the images of a rare one come again and
    again. Before a share $t_0$ of the training is over, images are drawn as they come, so that none is missed.

    Args:
        has_label: whether an image shows a class, for each image of the training set.
        progress: share of the training that is over, in [0, 1].
        alpha: $\alpha$ in [0, 1].
        start: share $t_0$ of the training after which soft balance begins, in [0, 1].

    Returns:
        The probability of each image in the next draw. They add up to 1, or to 0 if no image shows anything.
    """
    dtype, blocks = widen(progress).dtype, row_blocks(has_label)
    if len(blocks) == 1:
        shows = has_label.to(dtype)
        share = shows.mul_(_of_class(shows.sum(-2, keepdim=True), alpha)).sum(-1)
    else:
        share = _of_many(has_label, blocks, alpha, dtype)
    share = torch.where((progress < start).unsqueeze(-1), 1, share)
    return share.div_(share.sum(-1, keepdim=True).clamp_min_(torch.finfo(dtype).tiny))


def _of_many(has_label: Tensor, blocks: list[slice], alpha: float, dtype: torch.dtype) -> Tensor:
    """What each image gets, some images at a time."""
    # Bytes become numbers faster than truth values do, but a transform may not know how to look at them so.
    shows = has_label.view(torch.uint8) if is_plain(has_label) else has_label
    # All parts become numbers in the same memory, as getting new memory can take longer than filling it.
    scratch = torch.empty_like(shows[..., blocks[0], :], dtype=dtype)
    parts = [(scratch[..., : block.shape[-2], :], block) for block in (shows[..., rows, :] for rows in blocks)]
    count = reduce(torch.add, [part.copy_(block).sum(-2, keepdim=True) for part, block in parts])
    column = _of_class(count, alpha).mT
    with in_full_precision(column):
        return torch.cat([part.copy_(block) @ column for part, block in parts], -2).squeeze(-1)


def _of_class(count: Tensor, alpha: float) -> Tensor:
    """What an image gets for showing a class; anything where none shows it."""
    return count.clamp_min_(1).pow_(-alpha)
