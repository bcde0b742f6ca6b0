"""Dynamic smooth L1 loss, of Dynamic R-CNN: Zhang, Chang, Ma, Wang and Chen, ECCV 2020."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen
from reference_impl.ops.order import kth_largest

__all__ = ["dynamic_beta", "dynamic_smooth_l1_loss", "smallest_target"]


@checked
def dynamic_smooth_l1_loss(pred: Float[Tensor, "*n"], target: Float[Tensor, "*n"], beta: Float[Tensor, ""]) -> Float[Tensor, "*n"]:
    r"""Smooth L1 whose threshold shrinks with the targets, so that a box that is nearly right keeps a gradient of full size.

    $$ L = \begin{cases} \hat x^2 / (2\beta_{now}), & |\hat x| < \beta_{now} \\
    |\hat x| - \beta_{now} / 2, & \text{otherwise} \end{cases} $$

    $\hat x$ is the difference of prediction and target. In each step, `smallest_target` says how small the targets of the batch are, and
    `dynamic_beta` records it and gives the threshold of the next step. The authors sum the four deltas of a foreground box and average over
    all sampled boxes, background included.

    Args:
        pred: predicted deltas.
        target: the deltas that they should be.
        beta: threshold $\beta_{now} \ge 0$, 1 at the start of training; 0 is L1. It is a constant: no gradient passes through it.

    Returns:
        One loss for each value, >= 0.

    Raises:
        ValueError: the shapes differ.
    """
    error = (widen(pred) - widen(target)).abs()
    beta = beta.detach().to(error.dtype)
    share = (error / beta.clamp(min=torch.finfo(beta.dtype).tiny)).clamp(max=1)
    return share * torch.addcmul(error, share, beta, value=-0.5)


@checked
def smallest_target(
    target: Float[Tensor, "*batch n 4"], valid: Bool[Tensor, "*batch n"] | None = None, *, k: int = 10
) -> Float[Tensor, "*batch"]:
    r"""How near the better proposals of a batch lie to their ground truths: the `k`-th smallest of their regression targets.

    The target of a proposal counts as the mean of $|\delta_x|$ and $|\delta_y|$; its size has no part. No gradient passes through it.
    The authors take the images of a GPU together, with $k = K_\beta$ times their number: flatten them into $n$.

    Args:
        target: $(\delta_x, \delta_y, \delta_w, \delta_h)$ of each proposal, divided by the standard deviations that the loss sees.
        valid: proposals that count; by default all, as in the authors' code, before any are sampled.
        k: $K_\beta$; with fewer valid proposals, it is the largest target.

    Returns:
        The value to record, 0 if nothing is valid.
    """
    distance = widen(target.detach())[..., :2].abs().mean(-1)
    return -kth_largest(-distance, valid, k=k)


@checked
def dynamic_beta(
    record: Float[Tensor, "*batch c"],
    value: Float[Tensor, "*batch"],
    beta: Float[Tensor, "*batch"],
    step: Int[Tensor, "*batch"],
    *,
    initial: float = 1.0,
) -> tuple[Float[Tensor, "*batch c"], Float[Tensor, "*batch"], Int[Tensor, "*batch"]]:
    r"""Records a value, and makes the median of the record the new threshold each time the record is full.

    $$ \beta_{now} = \min(\beta_0, \mathrm{median}(S_E)) $$

    The state is passed in and returned; nothing is kept, and no gradient passes through it. Start with a record of zeros and step 0; the
    authors' record has 100 places. The median of an even number of values is the upper one of the middle two.

    Args:
        record: $S_E$, the last $c$ values; each overwrites the one $c$ steps before.
        value: `smallest_target` of this step, >= 0.
        beta: $\beta_{now}$ so far; start with `initial`.
        step: number of values recorded before.
        initial: $\beta_0$, which the threshold never exceeds.

    Returns:
        The record, the threshold for the next step, and the number of steps.

    Raises:
        ValueError: the shapes do not fit together.
    """
    record, beta = widen(record.detach()), widen(beta.detach())
    places = record.shape[-1]
    record = record.scatter(-1, (step % places).long()[..., None], value.detach()[..., None].to(record.dtype))
    median = record.sort(dim=-1).values[..., places // 2]
    full = (step + 1) % places == 0
    return record, torch.where(full, median.clamp(max=initial), beta), step + 1
