"""Unified sample weighting: Cai, Pan, Wang, Liu, Yao and Mei, CVPR 2020."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import safe_divide, widen

__all__ = ["SampleWeightingNetwork", "averaged_log_variance", "sample_weighting_loss", "unified_sample_weighting"]


@checked
def unified_sample_weighting(
    log_variance: Float[Tensor, "*batch n"], valid: Bool[Tensor, "*batch n"], *, lowest: float = -2.0, highest: float = 2.0
) -> Float[Tensor, "*batch n"]:
    r"""Weighs each box by how sure a small network is of it, in one task; classification and regression have weights of their own.

    $$ w_i = e^{-m_i} $$

    Args:
        log_variance: $m_i$, from `SampleWeightingNetwork`, for one task; cut off at both ends.
        valid: the boxes of that task: positives and negatives for classification, positives for regression and for masks.
        lowest: smallest $m$, $m_{min}$; at -2 a box weighs 7.4 times as much as at 0.
        highest: largest $m$, $m_{max}$.

    Returns:
        One weight for each box, 0 for boxes that are not valid. It has a gradient.
    """
    weight = (-widen(log_variance).clamp(lowest, highest)).exp()
    return torch.where(valid, weight, 0)


@checked
def averaged_log_variance(
    log_variance: Float[Tensor, "*batch n"],
    positive: Bool[Tensor, "*batch n"],
    negative: Bool[Tensor, "*batch n"],
    *,
    lowest: float = -2.0,
    highest: float = 2.0,
) -> Float[Tensor, "*batch n"]:
    r"""Gives all positives one value and all negatives another, the means of theirs, as the authors' code does for classification.

    $$ \bar m_i = \frac{1}{|\mathcal{S}|} \sum_{j \in \mathcal{S}} m_j, \qquad \mathcal{S} = \mathcal{P} \text{ or } \mathcal{N}, \quad
    i \in \mathcal{S} $$

    Args:
        log_variance: $m_j$, cut off at both ends before the mean.
        positive: $\mathcal{P}$; the authors take the means over all images of a mini-batch: put them in one set.
        negative: $\mathcal{N}$.
        lowest: smallest $m$, $m_{min}$.
        highest: largest $m$, $m_{max}$.

    Returns:
        One value for each box, 0 for boxes that are neither. It may be negative.
    """
    bounded = widen(log_variance).clamp(lowest, highest)
    return torch.where(positive, _mean(bounded, positive), 0) + torch.where(negative, _mean(bounded, negative), 0)


@checked
def sample_weighting_loss(
    loss: Float[Tensor, "*batch n"],
    log_variance: Float[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"],
    *,
    regularisation: float = 0.5,
    lowest: float = -2.0,
    highest: float = 2.0,
) -> Float[Tensor, "*batch n"]:
    r"""What the detector and the small network learn from together: being unsure of a box makes its loss small, and has a price.

    $$ L_i' = e^{-m_i} L_i + \lambda m_i $$

    For a given loss it is smallest at $m_i = \ln(L_i / \lambda)$, where the box weighs $\lambda / L_i$: what stays hard weighs little.

    Args:
        loss: $L_i$ of one task, >= 0.
        log_variance: $m_i$ for that task, cut off at both ends.
        valid: the boxes of that task.
        regularisation: price $\lambda$ of being unsure.
        lowest: smallest $m$, $m_{min}$.
        highest: largest $m$, $m_{max}$.

    Returns:
        One loss for each box, 0 for boxes that are not valid. It may be negative.
    """
    bounded = widen(log_variance).clamp(lowest, highest)
    return torch.where(valid, (-bounded).exp() * widen(loss) + regularisation * bounded, 0)


def _mean(value: Tensor, among: Tensor) -> Tensor:
    return safe_divide((value * among).sum(-1, keepdim=True), among.sum(-1, keepdim=True).to(value.dtype))


class SampleWeightingNetwork(nn.Module):
    """Reads what is known about a box in training, and predicts how unsure each task is of it; at inference it is not needed.

    A small network embeds each property, and one more reads all embeddings. The weights start so small that every box has weight 1. The
    properties are constants: no gradient passes through them.

    Args:
        embedding: width of each layer.
        masks: whether the detector predicts masks, too: their loss is one property more, and has an uncertainty of its own.
    """

    def __init__(self, *, embedding: int = 64, masks: bool = False) -> None:
        super().__init__()
        self.loss_net = _two_layers(1, embedding, embedding)
        self.regression_net = _two_layers(4, embedding, embedding)
        self.iou_net = _two_layers(1, embedding, embedding)
        self.score_net = _two_layers(1, embedding, embedding)
        self.mask_net = _two_layers(1, embedding, embedding) if masks else None
        self.predictor = _two_layers((4 + masks) * embedding, embedding, 2 + masks)

    @checked
    def forward(
        self,
        loss: Float[Tensor, "*batch n"],
        regression_loss: Float[Tensor, "*batch n 4"],
        iou: Float[Tensor, "*batch n"],
        p_s: Float[Tensor, "*batch n"],
        mask_loss: Float[Tensor, "*batch n"] | None = None,
    ) -> Float[Tensor, "*batch n tasks"]:
        """Properties of the boxes -> `log_variance` of classification, of regression and, with `masks`, of the mask.

        Args:
            loss: classification loss.
            regression_loss: of the four coordinates; 0 for negatives.
            iou: of the predicted box with its ground truth; 0 for negatives.
            p_s: probability of the true class; 0 for negatives.
            mask_loss: mean over the mask of each box; 0 for negatives. Given if, and only if, there are `masks`.

        Raises:
            ValueError: `mask_loss` is missing, or not expected.
        """
        embedded = [
            self.iou_net(iou.detach()[..., None]).relu(),
            self.score_net(p_s.detach()[..., None]).relu(),
            self.loss_net(loss.detach()[..., None]).relu(),
            self.regression_net(regression_loss.detach()).relu(),
        ]
        if (mask_loss is None) != (self.mask_net is None):
            raise ValueError(f"SampleWeightingNetwork: `mask_loss` is {'missing' if mask_loss is None else 'not expected'}")
        if mask_loss is not None and self.mask_net is not None:
            embedded.append(self.mask_net(mask_loss.detach()[..., None]).relu())
        predicted: Tensor = self.predictor(torch.cat(embedded, -1))
        return predicted


def _two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    first, second = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
    for layer in (first, second):
        nn.init.normal_(layer.weight, std=1e-4)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, nn.ReLU(), second)
