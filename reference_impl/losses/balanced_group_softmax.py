"""Balanced group softmax: Li, Wang, Kang, Tang, Wang, Li and Feng, CVPR 2020."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from reference_impl.ops.checked import checked
from reference_impl.ops.dense import own_class
from reference_impl.ops.numerics import safe_divide, widen
from reference_impl.ops.select import take

__all__ = ["balanced_group_softmax", "class_groups", "group_scores"]


@checked
def class_groups(counts: Int[Tensor, "*c"], limits: Int[Tensor, "k"] | None = None) -> Int[Tensor, "*c"]:
    """Puts classes with similar numbers of training instances into one group.

    Args:
        counts: instances of each class.
        limits: at which counts the next group begins; 10, 100 and 1000 by default.

    Returns:
        The group of each class, 0 for the rarest; one group more than limits.
    """
    limits = torch.tensor((10, 100, 1000), device=counts.device) if limits is None else limits
    return (counts[..., None] >= limits).sum(-1)


@checked
def balanced_group_softmax(
    logits: Float[Tensor, "*batch n c"],
    others: Float[Tensor, "*batch n k"],
    background: Float[Tensor, "*batch n 2"],
    labels: Int[Tensor, "*batch n"],
    group: Int[Tensor, "c"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    noise: Float[Tensor, "*batch n k"] | None = None,
    *,
    ratio: float = 8.0,
) -> Float[Tensor, "*batch n"]:
    r"""Lets classes compete within groups of similar frequency only, so that a frequent class cannot push a rare one down.

    $$ L = \sum_{g = 0}^{K} \frac{1}{\max(N_g, 1)} \sum_i w_{ig}\,\Big( -\ln \frac{e^{x_{i,t(i,g)}}}{\sum_{j \in g} e^{x_{ij}}} \Big) $$

    The outputs of group $g$ are its classes and one named others. The target $t(i, g)$ of box $i$ is its own class if that is in the
    group, else others. $w_{ig}$ is 1 for all boxes of the former kind, for at most $\beta$ times as many of the latter, drawn at random,
    and 0 for the rest; $N_g = \sum_i w_{ig}$. One more group holds background and foreground, and there every box counts.

    Each box gets its share of $L$, and the sum over the boxes is the loss of the paper. Flatten images into $n$ to draw and to divide over
    all of them.

    Args:
        logits: $x$, one for each of $C$ foreground classes.
        others: the logit of others in each of $K$ groups.
        background: the logits of background and of foreground.
        labels: 0 to $C - 1$, or $C$ for background, which is others in every group.
        group: the group of each class, 0 to $K - 1$; $K$ for a class that is in none, whose boxes are others in every group.
        valid: the other boxes have loss 0 and are not counted; by default all are valid.
        noise: uniform in [0, 1); in each group the highest of the others are drawn. A fresh draw by default.
        ratio: $\beta \ge 0$, how many boxes of other classes stay for each box of the group's.

    Returns:
        One loss for each box, >= 0.

    Raises:
        ValueError: the shapes do not fit together.
    """
    logits, others, background = widen(logits), widen(others), widen(background)
    noise = torch.rand_like(others) if noise is None else noise
    valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
    index, is_class = own_class(labels, logits.shape[-1])
    inside = is_class & (group[index] == torch.arange(others.shape[-1], device=group.device))
    loss = _log_total(logits, others, group)[1][..., :-1] - torch.where(inside, logits.gather(-1, index), others)

    kept = inside & valid[..., None]
    limit = (kept.sum(-2) * ratio).long()[..., None]
    drawn = take(noise.mT, (valid[..., None] & ~inside).mT, limit).mT
    weight = (kept | drawn).to(loss.dtype)
    first = torch.where(labels == logits.shape[-1], background[..., 0], background[..., 1])
    loss = torch.cat((loss, (background.logsumexp(-1) - first)[..., None]), -1)
    weight = torch.cat((weight, valid[..., None].to(loss.dtype)), -1)
    return (safe_divide(weight, weight.sum(-2, keepdim=True).clamp(min=1)) * loss).sum(-1)


@checked
def group_scores(
    logits: Float[Tensor, "*batch n c"],
    others: Float[Tensor, "*batch n k"],
    background: Float[Tensor, "*batch n 2"],
    group: Int[Tensor, "c"],
) -> Float[Tensor, "*batch n c"]:
    r"""Scores at inference, back in the order of the classes: softmax within the group, times that of foreground.

    $$ s_j = \frac{e^{x_j}}{\sum_{l \in g(j)} e^{x_l}} \cdot \frac{e^{b_1}}{e^{b_0} + e^{b_1}} $$

    Args:
        logits: as for `balanced_group_softmax`.
        others: as for `balanced_group_softmax`; the scores of others are dropped.
        background: $b_0$ of background and $b_1$ of foreground.
        group: as for `balanced_group_softmax`.

    Returns:
        One score for each box and class, in [0, 1].
    """
    logits, others, background = widen(logits), widen(others), widen(background)
    index, total = _log_total(logits, others, group)
    score = (logits - total.gather(-1, index)).exp() * background.softmax(-1)[..., 1:]
    return torch.where(group < others.shape[-1], score, 0)


def _log_total(logits: Tensor, others: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """The group of each logit, and the logarithm of the sum of the exponentials of each group; the last is that of classes in no other."""
    index, others = group.long().clamp(max=others.shape[-1]).expand(logits.shape), pad(others, (0, 1)).to(logits.dtype)
    highest = others.detach().scatter_reduce(-1, index, logits.detach(), "amax")
    total = (others - highest).exp().scatter_add(-1, index, (logits - highest.gather(-1, index)).exp())
    return index, total.log() + highest
