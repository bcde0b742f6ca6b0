"""Residual objectness: Chen, Liu, Luo, Peng, Xu and Chen, arXiv 2019."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import relu, softplus

from reference_impl.ops.checked import checked
from reference_impl.ops.layout import per_anchor
from reference_impl.ops.numerics import widen

__all__ = ["ResidualObjectnessHead", "residual_objectness", "residual_objectness_loss"]


@checked
def residual_objectness(
    logits: Float[Tensor, "*batch n c"], objectness_logits: Float[Tensor, "*batch n"], residual: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch n c"]:
    r"""Scores at inference: the probability of a class, given that the anchor is an object, times the probability that it is one.

    $$ s_c = \sigma(o + r)\,\sigma(x_c) $$

    Args:
        logits: $x_c$, one for each of $C$ foreground classes.
        objectness_logits: $o$, the first estimate of objectness.
        residual: $r$, what the second estimator adds to it.

    Returns:
        One score for each anchor and class, in [0, 1].
    """
    return (widen(objectness_logits) + widen(residual)).sigmoid()[..., None] * widen(logits).sigmoid()


@checked
def residual_objectness_loss(
    logits: Float[Tensor, "*batch n c"],
    objectness_logits: Float[Tensor, "*batch n"],
    residual: Float[Tensor, "*batch n"],
    labels: Int[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    r"""Leaves the imbalance of foreground and background to one output, and keeps the background away from the classes.

    $$ L_{obj} = \mathrm{BCE}(\sigma(o + r), [y < C]), \qquad L_{cls} = [y < C] \sum_c \mathrm{BCE}(\sigma(x_c), [y = c]) $$

    Plain cross entropy: nothing is sampled, nothing is weighted by difficulty. The authors add $\sum L_{obj} / 20$, $\sum L_{cls} / 10$ and
    the regression loss, and divide by a moving average of the number of positives.

    Args:
        logits: $x_c$, one for each of $C$ foreground classes.
        objectness_logits: $o$, the first estimate of objectness.
        residual: $r$, what the second estimator adds to it.
        labels: $y$, 0 to $C - 1$, or $C$ for background.
        valid: the anchors that are not ignored; by default all.

    Returns:
        Loss of objectness and loss of the classes for each anchor; the latter is 0 for background.
    """
    logits, objectness = widen(logits), widen(objectness_logits) + widen(residual)
    valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
    positive = labels < logits.shape[-1]
    own = labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)
    objectness_loss = softplus(torch.where(positive, -objectness, objectness))
    class_loss = softplus(torch.where(own, -logits, logits)).sum(-1)
    return torch.where(valid, objectness_loss, 0), torch.where(valid & positive, class_loss, 0)


class ResidualObjectnessHead(nn.Module):
    r"""The branches of one level: classes from the tower, objectness from a layer above it, the residual from one layer more.

    As in the authors' RetinaNet, whose tower of four convolutions comes before, and whose boxes have a tower of their own. Both biases of
    objectness start at the logit of `prior`, so that their sum starts at twice that: at 0.01, a probability of 0.0001. The classes start at
    $1 / C$.

    Args:
        channels: of the features.
        anchors: number of anchors at a location.
        classes: number $C$ of foreground classes.
        prior: $\pi$, probability of foreground that each of the two biases stands for.
    """

    def __init__(self, channels: int, anchors: int, classes: int, *, prior: float = 0.01) -> None:
        super().__init__()
        self.anchors = anchors
        self.objectness_layer = nn.Conv2d(channels, channels, 3, padding=1)
        self.residual_layer = nn.Conv2d(channels, channels, 3, padding=1)
        self.classes = self._last_layer(channels, anchors * classes, 1 / classes)
        self.objectness = self._last_layer(channels, anchors, prior)
        self.residual = self._last_layer(channels, anchors, prior)

    @staticmethod
    def _last_layer(channels: int, outputs: int, prior: float) -> nn.Conv2d:
        layer = nn.Conv2d(channels, outputs, 3, padding=1)
        nn.init.normal_(layer.weight, std=0.01)
        assert layer.bias is not None
        nn.init.constant_(layer.bias, math.log(prior) - math.log1p(-prior) if prior < 1 else 0.0)
        return layer

    @checked
    def forward(
        self, features: Float[Tensor, "b channels h w"]
    ) -> tuple[Float[Tensor, "b n classes"], Float[Tensor, "b n"], Float[Tensor, "b n"]]:
        """Features of the classification tower -> logits, objectness_logits and residual of each anchor, row by row."""
        above = relu(self.objectness_layer(features))
        objectness = self.objectness(above)
        residual = self.residual(relu(self.residual_layer(above)))
        rows = (per_anchor(x, anchors=self.anchors) for x in (self.classes(features), objectness, residual))
        logits, objectness_logits, residual = rows
        return logits, objectness_logits.squeeze(-1), residual.squeeze(-1)
