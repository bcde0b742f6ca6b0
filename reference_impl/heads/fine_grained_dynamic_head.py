"""Fine-Grained Dynamic Head: Song, Li, Jiang, Li, Sun, Sun and Zheng, NeurIPS 2020."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, relu

from reference_impl.ops.checked import checked
from reference_impl.ops.levels import check_levels
from reference_impl.ops.numerics import nonnegative, widen

__all__ = ["FineGrainedDynamicHead", "restricted_tanh"]


@checked
def restricted_tanh(logits: Float[Tensor, "*batch n"], *, tau: float = 1.5) -> Float[Tensor, "*batch n"]:
    r"""Opens a gate between 0 and 1, and closes it exactly, so that nothing need be computed behind it.

    $$ g(x) = \max\left(0,\; \frac{\tanh(x - \tau) + \tanh\tau}{1 + \tanh\tau}\right) $$

    Its slope is largest at $\tau$, inside the open range, and 0 below 0, unlike a sigmoid's.

    Args:
        logits: $x$; the gate is closed up to 0.
        tau: $\tau$, where the gate opens fastest; with 0 it is a rectified tanh.

    Returns:
        The gate, in [0, 1).
    """
    top = math.tanh(tau)
    return nonnegative((torch.tanh(widen(logits) - tau) + top) / (1 + top))


class FineGrainedDynamicHead(nn.Module):
    r"""Lets every location of every level choose what it takes from the levels next to it, and whether it computes anything itself.

    $$ m_l = a\,x_l + b \sum_{k = l \pm 1} \mathrm{up}\left(g_k \odot d(x_k)\right),
    \qquad y_l = \max\left(0,\; m_l + g'(m_l) \odot f(m_l)\right) $$

    A layer has $d$, a 3x3 convolution of each channel alone, one for what goes to the coarser level and one for what goes to the finer;
    $f$, two 3x3 convolutions over all channels; and gates $g$ and $g'$, each a 3x3 convolution to one channel and `restricted_tanh`. A gate
    belongs to the level that it reads. All levels share them. What comes from a neighbour is resized bilinearly, corners on corners. At the
    start $a$ is 1 and $b$ is 0, and gates stand at 0.99. Convolutions but those of the gates are followed by group normalisation.

    This is the tower of one task. A detector has one for the classes and one for the boxes, each in place of FCOS's four convolutions, and
    adds 0.1 times the mean of `cost` to its losses.

    Args:
        levels: how many levels there are.
        width: $w$, channels of every level.
        layers: $D$, how many layers the tower has.
        tau: $\tau$ of `restricted_tanh`.
        groups: $G$ of the group normalisation.
    """

    def __init__(self, levels: int, *, width: int = 256, layers: int = 8, tau: float = 1.5, groups: int = 32) -> None:
        super().__init__()
        self.channels = (width,) * levels
        self.layers = nn.ModuleList(_Router(width, tau, groups) for _ in range(layers))

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Levels `[b width h_i w_i]`, finest first -> as many of the same sizes, and after them `cost` and `used`, both `[b]`.

        `cost` is the part of the multiplications that is computed if an open gate counts as much as it is open, and carries the gradient to
        the gates of $f$; those of $d$ count in it, but learn nothing from it. `used` is the part that has to be computed, gates being
        open or closed. The layers behind a gate are computed everywhere and multiplied with it.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("FineGrainedDynamicHead", levels, self.channels)
        found, costs = list(levels), []
        for layer in self.layers:
            found, cost = layer(found)
            costs.append(cost)
        soft, hard, full = torch.stack(costs).sum(0)
        return *found, soft / full, hard / full


class _Gate(nn.Module):
    """One number for each location; at the start it is 0.99 wherever the features are small."""

    def __init__(self, width: int, tau: float) -> None:
        super().__init__()
        self.tau = tau
        self.convolution = nn.Conv2d(width, 1, 3, padding=1)
        nn.init.normal_(self.convolution.weight, std=0.01)
        assert self.convolution.bias is not None
        nn.init.constant_(self.convolution.bias, 0.5 * math.log((1 + 0.99 * math.exp(2 * tau)) / (1 - 0.99)))

    def forward(self, x: Tensor) -> Tensor:
        return restricted_tanh(self.convolution(x), tau=self.tau).to(x.dtype)


class _Router(nn.Module):
    """A layer: levels mixed with what their neighbours send, then a residual block."""

    def __init__(self, width: int, tau: float, groups: int) -> None:
        super().__init__()
        self.width = width
        self.to_coarser = _normalised(width, groups, apart=True)
        self.to_coarser_gate = _Gate(width, tau)
        self.to_finer = _normalised(width, groups, apart=True)
        self.to_finer_gate = _Gate(width, tau)
        self.first, self.second = _normalised(width, groups), _normalised(width, groups)
        self.gate = _Gate(width, tau)
        self.weights = nn.ParameterList([torch.ones(1), torch.zeros(1)])

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The levels after this layer, and its cost for each image, `[3 b]`: by the gates, by those that are not closed, and in full."""
        own, others = self.weights
        mixed = [own * x for x in levels]
        costs = []
        for i, x in enumerate(levels):
            ways = ((i + 1, self.to_coarser, self.to_coarser_gate), (i - 1, self.to_finer, self.to_finer_gate))
            for j, body, gate_of in ways:
                if 0 <= j < len(levels):
                    gate = gate_of(x)
                    sent = interpolate(body(x) * gate, levels[j].shape[-2:], mode="bilinear", align_corners=True)
                    mixed[j] = mixed[j] + others * sent
                    costs.append(_cost(gate.detach(), 10 * self.width))
        found = []
        for x in mixed:
            gate = self.gate(x)
            found.append(relu(x + gate * self.second(relu(self.first(x)))))
            around = max_pool2d(gate, 3, stride=1, padding=1)
            costs.append(_cost(gate, 9 * self.width**2 + self.width) + _cost(around, 9 * self.width**2 + self.width))
        return found, torch.stack(costs).sum(0)


def _normalised(width: int, groups: int, apart: bool = False) -> nn.Sequential:
    """A 3x3 convolution, of each channel `apart` or of all together, and group normalisation."""
    convolution = nn.Conv2d(width, width, 3, padding=1, groups=width if apart else 1, bias=apart)
    nn.init.normal_(convolution.weight, std=0.01)
    return nn.Sequential(convolution, nn.GroupNorm(groups, width))


def _cost(gate: Tensor, each: int) -> Tensor:
    """What `each` location costs, times the gate, times whether it is open, and times one; summed over the locations."""
    return each * torch.stack((gate, (gate > 0).to(gate.dtype), torch.ones_like(gate))).sum((2, 3, 4))
