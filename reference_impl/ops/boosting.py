"""AdaBoost with stumps: many features, of which a few tell objects from background; and the bar of a classifier in a cascade."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import safe_divide, widen
from reference_impl.ops.repeat import repeated

__all__ = ["boosted_score", "boosted_stumps", "rejection_threshold", "responses"]

# How far from 1 an edge counts at least, so that a stump without error has a weight; and what is no difference, but rounding.
PERFECT, ROUNDING = 1e-6, 1e-9


@checked
def boosted_stumps(
    features: Float[Tensor, "*batch n c"],
    positive: Bool[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    k: int = 50,
) -> tuple[Int[Tensor, "*batch k"], Float[Tensor, "*batch k"], Float[Tensor, "*batch k"]]:
    r"""Trains a classifier by AdaBoost: features, one at a time and cut in two, that together tell objects from background.

    $$ (j_t, \theta_t) = \arg\max_{j, \theta} |r(j, \theta)|, \qquad r(j, \theta) = \sum_i D_i\, y_i\, h_i, \qquad
    w_t = \tfrac{1}{2} \ln \frac{1 + r}{1 - r}, \qquad D_i \leftarrow D_i\, e^{-w_t y_i h_i} / Z $$

    $h_i$ is 1 where $x_{ij} > \theta$ and -1 elsewhere, $y_i$ is 1 for an object and -1 for background. At the start objects and background
    have half of the weight $D$ each, however few the objects are. A cut lies halfway between two values; the earlier feature and the lower
    cut win a tie. No gradient passes through.

    Args:
        features: $x$ of each box, in a row.
        positive: the boxes that stand for an object.
        valid: the boxes to train on, in a cascade those that the classifiers before have let through; by default all.
        k: number $T$ of weak classifiers.

    Returns:
        Feature $j_t$ and cut $\theta_t$ of each stump, and its weight $w_t$, which is negative where low values speak for an object, and 0
        where nothing can be told apart.
    """
    x, rows = widen(features.detach()), features.shape[-2]
    valid = torch.ones_like(positive) if valid is None else valid
    sign = torch.where(positive, 1.0, -1.0).double()
    objects, background = (valid & positive).double(), (valid & ~positive).double()
    share = safe_divide(objects, objects.sum(-1, keepdim=True)) + safe_divide(background, background.sum(-1, keepdim=True))
    share = safe_divide(share, share.sum(-1, keepdim=True))

    ordered, order = pad(x.mT.masked_fill(~valid[..., None, :], torch.inf), (0, 1), value=torch.inf).sort(-1)
    no_cut = ~pad((ordered[..., :-1] < ordered[..., 1:]) & ordered[..., 1:].isfinite(), (0, 1))
    middle = pad(ordered[..., :-1] + (ordered[..., 1:] - ordered[..., :-1]) / 2, (0, 1)).masked_fill(no_cut, 0).flatten(-2)
    place = torch.arange(k, device=x.device)

    def add_one(share: Tensor, t: Tensor, *found: Tensor) -> tuple[Tensor, ...]:
        signed = pad(share * sign, (0, 1))[..., None, :].expand(order.shape).gather(-1, order)
        total = signed.sum(-1, keepdim=True)
        edge = signed.cumsum_(-1).mul_(-2).add_(total).masked_fill_(no_cut, 0).flatten(-2)
        size = edge.abs()
        index = (size >= size.amax(-1, keepdim=True) - ROUNDING).to(torch.uint8).argmax(-1, keepdim=True)
        feature, cut = index // (rows + 1), middle.gather(-1, index)
        weight = edge.gather(-1, index).clamp(PERFECT - 1, 1 - PERFECT).atanh()
        response = responses(x, feature, cut).squeeze(-1)
        share = share * (-weight * sign * response).exp()
        share = safe_divide(share, share.sum(-1, keepdim=True))
        stump = feature, cut, weight.to(x.dtype)
        return share, t + 1, *(torch.where(place == t, new, old) for new, old in zip(stump, found, strict=True))

    none = x.new_zeros(*share.shape[:-1], k)
    start = share, place.new_zeros(()), none.long(), none, none.clone()
    _, _, features_of, cuts_of, weights_of = repeated(add_one, start, k)
    return features_of, cuts_of, weights_of


@checked
def boosted_score(
    features: Float[Tensor, "*batch n c"],
    feature: Int[Tensor, "*batch k"],
    threshold: Float[Tensor, "*batch k"],
    weight: Float[Tensor, "*batch k"],
) -> Float[Tensor, "*batch n"]:
    r"""Sums what the weak classifiers of a classifier say of each box.

    $$ R(x) = \sum_{t=1}^T w_t\, h_t(x), \qquad h_t(x) = \begin{cases} 1 & x_{j_t} > \theta_t \\ -1 & \text{otherwise} \end{cases} $$

    It reads $T$ numbers of a box's features, however many there are.

    Args:
        features: $x$ of each box.
        feature: $j_t$, from 0.
        threshold: $\theta_t$.
        weight: $w_t$, of either sign.

    Returns:
        $R$ of each box; it may be negative.
    """
    return (widen(weight)[..., None, :] * responses(widen(features), feature, widen(threshold))).sum(-1)


def responses(
    features: Float[Tensor, "*batch n c"], feature: Int[Tensor, "*batch k"], threshold: Float[Tensor, "*batch k"]
) -> Float[Tensor, "*batch n k"]:
    """What each weak classifier says of each box: 1 where the feature is above its cut, and -1 elsewhere."""
    index = feature.clamp(max=features.shape[-1] - 1)[..., None, :].expand(*features.shape[:-1], feature.shape[-1])
    above = features.gather(-1, index) > threshold[..., None, :]
    return torch.where(above, 1.0, -1.0).to(features.dtype)


@checked
def rejection_threshold(
    score: Float[Tensor, "*batch n"],
    positive: Bool[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    recall: float = 0.995,
) -> Float[Tensor, "*batch"]:
    r"""The highest bar that still lets the wanted share of the objects pass; a box below it is never seen again.

    $$ \theta = \max \{ \tau : |\{i \in \mathcal{P} : R_i \ge \tau\}| \ge \rho\, |\mathcal{P}| \} $$

    No gradient passes through.

    Args:
        score: $R$ of each box.
        positive: $\mathcal{P}$, the boxes that stand for an object.
        valid: the boxes that count; by default all.
        recall: $\rho$.

    Returns:
        $\theta$; without a single object the lowest number that there is, so that nothing is rejected. It may be negative.
    """
    score = widen(score.detach())
    objects = positive if valid is None else positive & valid
    lowest = torch.finfo(score.dtype).min
    ordered = pad(score.masked_fill(~objects, lowest), (0, 1), value=lowest).sort(-1, descending=True).values
    kept = (recall * objects.sum(-1, keepdim=True).double() - ROUNDING).ceil().clamp(min=1).minimum(objects.sum(-1, keepdim=True))
    return ordered.gather(-1, (kept.long() - 1).clamp(min=0)).squeeze(-1)
