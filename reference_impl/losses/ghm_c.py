"""GHM-C, the gradient harmonising mechanism for classification: Li, Liu and Wang, AAAI 2019."""

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor
from torch.nn.functional import logsigmoid

from reference_impl.ops.checked import checked
from reference_impl.ops.dense import entropy_of_negatives, own_class, row_blocks, sum_over_classes
from reference_impl.ops.density import bin_counts, bin_index, inverse_density, neighbour_counts
from reference_impl.ops.numerics import widen

__all__ = ["ghm_bin_weight", "ghm_c", "ghm_c_counts", "ghm_weight"]


@checked
def ghm_weight(
    p_s: Float[Tensor, "*batch n"], valid: Bool[Tensor, "*batch n"] | None = None, *, epsilon: float = 1 / 30
) -> Float[Tensor, "*batch n"]:
    r"""Weighs an example down by how many others have about the same gradient norm, counted exactly.

    $$ w_i = \frac{N}{\mathrm{GD}(g_i)}, \qquad \mathrm{GD}(g) = \frac{\lvert\{k : \lvert g_k - g \rvert \le \epsilon / 2\}\rvert}
    {\min(g + \epsilon / 2, 1) - \max(g - \epsilon / 2, 0)}, \qquad g_i = 1 - p_{s,i} $$

    Survey, Eq. 4, for $N$ examples. $g$ is the norm of the gradient of cross entropy with respect to the logit; the denominator of GD is
    the length of the window inside [0, 1]. A neighbour at exactly half the width, up to the rounding of `p_s`, is inside. The weight is a
    constant: no gradient passes through it.

    Args:
        p_s: probability of the true class, in [0, 1].
        valid: the others weigh 0 and are not counted; by default all are valid.
        epsilon: width $\epsilon$ of the window, in (0, 1].

    Returns:
        One weight for each example, 1 where examples are as dense as on average over [0, 1].
    """
    gradient, valid = _gradient_norm(p_s), _all_valid(p_s, valid)
    count = neighbour_counts(gradient, valid, width=epsilon, tolerance=2 * torch.finfo(p_s.dtype).eps)
    length = (gradient + epsilon / 2).clamp(max=1) - (gradient - epsilon / 2).clamp(min=0)
    return torch.where(valid, inverse_density(count, valid.sum(-1, keepdim=True), length), 0)


@checked
def ghm_bin_weight(
    p_s: Float[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    counts: Num[Tensor, "*batch bins"] | None = None,
    *,
    bins: int = 30,
) -> Float[Tensor, "*batch n"]:
    r"""Weighs an example down by how many fall into its bin of gradient norms: `ghm_weight` at the cost of one pass.

    $$ w_i = \frac{N}{M R_{b(i)}} $$

    $R_b$ is the number of examples in bin $b$ of $M$, each $1 / M$ long, empty ones included. The weight is a constant: no gradient passes
    through it.

    Args:
        p_s: probability of the true class, in [0, 1].
        valid: the others weigh 0 and are not counted; by default all are valid.
        counts: $R$, by default of these examples. Give `world_sum` of it to count over processes, or a moving average of it (these
            examples included) to steady it over iterations; $N$ is its sum. An example whose bin is empty in it weighs 0.
        bins: $M$, where `counts` does not say it.

    Returns:
        One weight for each example.
    """
    gradient, valid = _gradient_norm(p_s), _all_valid(p_s, valid)
    counts = bin_counts(gradient, valid, bins=bins) if counts is None else counts
    weight = _of_bins(counts, counts.sum(-1, keepdim=True), gradient.dtype)
    return torch.where(valid, weight.gather(-1, bin_index(gradient, bins=counts.shape[-1])), 0)


@checked
def ghm_c(
    logits: Float[Tensor, "*batch n c"],
    labels: Int[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    counts: Num[Tensor, "*batch bins"] | None = None,
    *,
    bins: int = 30,
) -> Float[Tensor, "*batch n"]:
    r"""Sigmoid cross entropy that gives every range of gradient norms the same say, be it crowded with easy boxes or with outliers.

    $$ L = \sum_{c} -w_c \ln p_s $$

    For each class $c$ of a box, $p_s$ is $\sigma(x_c)$ if $c$ is the box's label, $1 - \sigma(x_c)$ if not, and $w_c$ is `ghm_bin_weight`
    of it. Each pair of box and class is one of the $N$ examples, counted over $n$ and $c$; flatten images into $n$ to count over them.
    The paper divides the sum over all boxes by $N$, the number of valid boxes times $C$.

    Args:
        logits: $x$, one for each of $C$ foreground classes.
        labels: 0 to $C - 1$, or $C$ for background, for which every class is a negative.
        valid: the other boxes have loss 0 and are not counted; by default all are valid.
        counts: examples in each bin, by default of these boxes; `world_sum(ghm_c_counts(...))`, or a moving average.
        bins: $M$, where `counts` does not say it.

    Returns:
        One loss for each box, >= 0.

    Raises:
        ValueError: the shapes of `labels` or `valid` are not that of `logits` without its last dimension.
    """
    logits = widen(logits)
    counts = ghm_c_counts(logits, labels, valid, bins=bins) if counts is None else counts
    weight, bins = _of_bins(counts, counts.sum(-1, keepdim=True), logits.dtype), counts.shape[-1]

    def formula(logits: Tensor, labels: Tensor) -> Tensor:
        own = labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)
        signed = torch.where(own, logits, -logits)
        of_entry = weight.gather(-1, bin_index((-signed).sigmoid().flatten(-2), bins=bins)).view(signed.shape)
        return (of_entry * -logsigmoid(signed)).sum(-1)

    def kernel(x: Tensor, own: bool, rows: slice | Tensor, loss: Tensor, slope: Tensor, spare: Tensor) -> None:
        wrong = -x if own else x
        error = torch.sigmoid(wrong, out=slope)
        entropy_of_negatives(wrong, error, loss, spare)
        of_entry = torch.index_select(weight, 0, bin_index(error, bins=bins).flatten(), out=spare.view(-1)).view(x.shape)
        loss.mul_(of_entry)
        error.mul_(-of_entry if own else of_entry)

    one_set = weight.dim() == 1
    loss = sum_over_classes(logits, labels, formula, kernel) if one_set else formula(logits, labels)
    return loss if valid is None else torch.where(valid, loss, 0)


@checked
def ghm_c_counts(
    logits: Float[Tensor, "*batch n c"], labels: Int[Tensor, "*batch n"], valid: Bool[Tensor, "*batch n"] | None = None, *, bins: int = 30
) -> Int[Tensor, "*batch bins"]:
    """The counts that `ghm_c` makes by itself, to be summed over processes or averaged over iterations first.

    Args:
        logits: as for `ghm_c`.
        labels: as for `ghm_c`.
        valid: as for `ghm_c`.
        bins: number of bins $M$.

    Returns:
        Valid pairs of box and class in each bin of the gradient norm.
    """
    logits = widen(logits.detach())
    valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
    index, has_class = own_class(labels, logits.shape[-1])
    own, has_class = logits.gather(-1, index).squeeze(-1), has_class.squeeze(-1) & valid
    # As if no box had a class; then the entry of its class moves to its own bin.
    as_negatives = sum(
        bin_counts(x.sigmoid().flatten(-2), valid[..., rows, None].expand(x.shape).flatten(-2), bins=bins)
        for rows in row_blocks(logits)
        for x in [logits[..., rows, :]]
    )
    return as_negatives - bin_counts(own.sigmoid(), has_class, bins=bins) + bin_counts((-own).sigmoid(), has_class, bins=bins)


def _gradient_norm(p_s: Tensor) -> Tensor:
    return 1 - widen(p_s.detach())


def _all_valid(p_s: Tensor, valid: Tensor | None) -> Tensor:
    return torch.ones_like(p_s, dtype=torch.bool) if valid is None else valid


def _of_bins(counts: Tensor, total: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight of the examples of each bin."""
    length = torch.full(counts.shape, 1 / counts.shape[-1], dtype=dtype, device=counts.device)
    return inverse_density(counts, total, length).to(dtype)
