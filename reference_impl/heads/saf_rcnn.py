"""Scale-aware Fast R-CNN: Li, Liang, Shen, Xu, Feng and Yan, IEEE TMM 2018."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from reference_impl.ops.boxes import box_size
from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import safe_divide, safe_log, widen

__all__ = ["SAFRCNN", "gated_scores", "saf_rcnn_loss", "scale_aware_weight"]


@checked
def scale_aware_weight(
    proposals: Float[Tensor, "*batch n 4"], mean_height: Float[Tensor, ""], alpha: Float[Tensor, ""], beta: Float[Tensor, ""]
) -> Float[Tensor, "*batch n"]:
    r"""Says how much the sub-network for large objects counts for a proposal, by its height; the one for small objects has the rest.

    $$ \omega_l = \frac{1}{1 + \alpha\, e^{-(h - \bar h) / \beta}}, \qquad \omega_s = 1 - \omega_l $$

    A gradient reaches a sub-network in the same proportion, so each becomes an expert for its sizes. Near the mean height both count. The
    two coefficients are learned with the rest.

    Args:
        proposals: absolute `(x1, y1, x2, y2)` in pixels, $h$ high.
        mean_height: $\bar h$ of the objects of the training set, in the same pixels.
        alpha: $\alpha > 0$; 1 gives both one half at the mean height.
        beta: $\beta > 0$, how many pixels the transition takes.

    Returns:
        $\omega_l$ of each proposal, in [0, 1].

    Raises:
        ValueError: the shapes do not fit together.
    """
    height = box_size(widen(proposals))[..., 1]
    alpha, beta = widen(alpha), widen(beta)
    return (safe_divide(height - widen(mean_height), beta.expand_as(height)) - safe_log(alpha)).sigmoid()


@checked
def gated_scores(
    small_logits: Float[Tensor, "*batch n c"], large_logits: Float[Tensor, "*batch n c"], weight: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch n c"]:
    r"""Mixes the class scores of the two sub-networks, with more weight on the one for the proposal's size.

    $$ s = \omega_s\, \mathrm{softmax}(x_s) + \omega_l\, \mathrm{softmax}(x_l) $$

    Args:
        small_logits: $x_s$ of the sub-network for small objects.
        large_logits: $x_l$ of the one for large objects.
        weight: $\omega_l$, as `scale_aware_weight` gives it.

    Returns:
        One probability for each class.

    Raises:
        ValueError: the shapes do not fit together.
    """
    small, large = widen(small_logits).softmax(-1), widen(large_logits).softmax(-1)
    return small + widen(weight)[..., None] * (large - small)


@checked
def saf_rcnn_loss(
    scores: Float[Tensor, "*batch n c"],
    offsets: Float[Tensor, "*batch n 4"],
    target: Float[Tensor, "*batch n 4"],
    labels: Int[Tensor, "*batch n"],
    positive: Bool[Tensor, "*batch n"],
    *,
    box_weight: float = 1.0,
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    r"""Trains the two sub-networks on their joint output: no proposal is assigned to one of them, the gate divides the gradient.

    $$ L = -\ln s_y + \lambda\, [y < C] \sum_i \mathrm{smooth}_{L1}(t_i - \hat t_i) $$

    Args:
        scores: $s$ of $C + 1$ classes, background last, as `gated_scores` gives them.
        offsets: $t$ of each proposal's own class, weighted as the scores are.
        target: $\hat t$, what they should be; that of background is not used.
        labels: class $y$ of each positive, 0 to $C - 1$.
        positive: the proposals that stand for an object; the rest is background.
        box_weight: $\lambda$, weight of the regression loss.

    Returns:
        Classification and regression loss of each proposal; the latter is 0 for background.

    Raises:
        ValueError: the shapes do not fit together.
    """
    scores, offsets = widen(scores), widen(offsets)
    labels = labels.where(positive, scores.shape[-1] - 1).clamp(max=scores.shape[-1] - 1)
    by_class = -safe_log(scores.gather(-1, labels[..., None])).squeeze(-1)
    by_box = smooth_l1_loss(offsets, widen(target).to(offsets.dtype), reduction="none").sum(-1)
    return by_class, torch.where(positive, box_weight * by_box, 0)


class SAFRCNN(nn.Module):
    r"""Two sub-networks of the same shape, one for small objects and one for large ones, and the gate between them.

    Each has two layers with dropout, then one for the classes and one for the boxes. The gate weighs the offsets as it weighs the scores:
    $t = \omega_s t_s + \omega_l t_l$.

    Args:
        channels: of the pooled features, which come from convolutions that each sub-network has to itself.
        classes: number $C$ of foreground classes; 1 for pedestrians.
        mean_height: $\bar h$ of the objects of the training set, in pixels.
        alpha: $\alpha$ at the start.
        beta: $\beta$ at the start, in pixels.
        size: $K$, rows and columns of the pooled features.
        hidden: $d$, units of the two layers.
        dropout: $q$, share of these units that training leaves out.
    """

    mean_height: Tensor

    def __init__(
        self,
        channels: int,
        classes: int,
        mean_height: float,
        *,
        alpha: float = 1.0,
        beta: float = 10.0,
        size: int = 7,
        hidden: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.tensor(alpha)), nn.Parameter(torch.tensor(beta))
        self.register_buffer("mean_height", torch.tensor(float(mean_height)))
        self.small, self.large = (_SubNetwork(channels * size * size, classes, hidden, dropout) for _ in range(2))

    @checked
    def forward(
        self, small: Float[Tensor, "b n c k k"], large: Float[Tensor, "b n c k k"], proposals: Float[Tensor, "b n 4"]
    ) -> tuple[Float[Tensor, "b n classes"], Float[Tensor, "b n foreground 4"]]:
        """Features of each proposal for the two sub-networks -> scores, background last, and offsets of each foreground class.

        Raises:
            ValueError: the shapes do not fit together.
        """
        weight = scale_aware_weight(proposals, self.mean_height, self.alpha, self.beta)
        small_logits, small_offsets = self.small(small.flatten(2))
        large_logits, large_offsets = self.large(large.flatten(2))
        offsets = small_offsets + weight[..., None].to(small_offsets.dtype) * (large_offsets - small_offsets)
        return gated_scores(small_logits, large_logits, weight).to(offsets.dtype), offsets.unflatten(-1, (-1, 4))


class _SubNetwork(nn.Module):
    """The head of Fast R-CNN."""

    def __init__(self, features: int, classes: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout)
        )
        self.classify = nn.Linear(hidden, classes + 1)
        self.regress = nn.Linear(hidden, 4 * classes)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        x = self.layers(pooled)
        return self.classify(x), self.regress(x)
