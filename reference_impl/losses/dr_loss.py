"""DR loss, distributional ranking: Qian, Chen, Li and Jin, CVPR 2020."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import softplus

from reference_impl.ops.checked import checked, require_positive
from reference_impl.ops.dense import own_logit_and_mean_of_others
from reference_impl.ops.numerics import widen

__all__ = ["dr_loss"]


@checked
def dr_loss(
    logits: Float[Tensor, "*batch n c"],
    labels: Int[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    lambda_positive: float = 1.0,
    lambda_negative: float = 0.1 / math.log(3.5),
    margin: float = 0.5,
    sharpness: float = 6.0,
    scale: float = 4.0,
) -> Float[Tensor, "*batch"]:
    r"""Ranks the expected foreground score above the expected background score, where both expectations lean to their worse side.

    $$ L = \frac{\tau}{L_0} \ln \big( 1 + e^{L_0 (P_- - P_+ + \gamma)} \big), \qquad P_\pm = \sum_i q_i\,p_i, \quad
    q_i \propto \begin{cases} e^{-p_i / \lambda_+}, & \text{for } P_+ \\ e^{p_i / \lambda_-}, & \text{for } P_- \end{cases} $$

    $p = \sigma(x)$. $P_+$ is a sum over the scores of boxes for their own class, $P_-$ over all other scores, those of foreground boxes
    for other classes among them. The small $\lambda_-$ makes $P_-$ nearly the highest score of the background. The $q_i$ have a gradient,
    too. It is a ranking loss: one number for a whole image, however many boxes are on either side.

    Args:
        logits: $x$, one for each of $C$ foreground classes.
        labels: 0 to $C - 1$, or $C$ for background, for which every class is a negative.
        valid: the scores of other boxes are not ranked; by default all are.
        lambda_positive: $\lambda_+ > 0$; the smaller, the more the lowest scores of the foreground count.
        lambda_negative: $\lambda_- > 0$; the smaller, the more the highest scores of the background count.
        margin: $\gamma$, by how much $P_+$ should exceed $P_-$.
        sharpness: $L_0 > 0$, how close the logistic function comes to a hinge.
        scale: $\tau$, factor of the loss.

    Returns:
        One loss for each image, >= 0. Without foreground $P_+$ is 1, without background $P_-$ is 0; 0 without a valid box.

    Raises:
        ValueError: the shapes of `labels` or `valid` are not that of `logits` without its last dimension; `lambda_positive`,
            `lambda_negative` or `sharpness` is not positive.
    """
    require_positive("dr_loss", lambda_positive=lambda_positive, lambda_negative=lambda_negative, sharpness=sharpness)
    logits = widen(logits)
    own, low = own_logit_and_mean_of_others(logits, labels, valid, lambda_negative)
    of_own = own.sigmoid()
    positive = (labels >= 0) & (labels < logits.shape[-1])
    if valid is not None:
        positive = positive & valid
    share = (-of_own / lambda_positive).masked_fill(~positive, torch.finfo(of_own.dtype).min).softmax(-1)
    high = torch.where(positive.any(-1), (share * of_own).sum(-1), 1)
    loss = scale / sharpness * softplus(sharpness * (low - high + margin))
    if valid is None:
        return loss if labels.shape[-1] > 0 else 0 * loss
    return torch.where(valid.any(-1), loss, 0)
