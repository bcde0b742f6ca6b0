"""Adversarial spatial transformer network (ASTN) of A-Fast-RCNN: Wang, Shrivastava and Gupta, CVPR 2017."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen
from reference_impl.ops.warp import bilinear

__all__ = ["RotationNetwork", "adversarial_transformer"]


class RotationNetwork(nn.Module):
    r"""The adversary: looks at the pooled features of a region and says how to turn each block of channels so that the detector fails.

    The deformation is differentiable, so the network is trained by ascending the detector's own loss: the optimiser of its parameters gets
    the loss with its sign reversed. The angle is bounded; without a bound the network would turn everything upside down.

    Args:
        channels: $C$ of the features.
        size: $n$, rows and columns of the features.
        hidden: $C_h$, width of the two inner layers, which the paper initialises from fc6 and fc7 of VGG-16.
        blocks: $B$, how many blocks of channels turn on their own.
        max_degrees: $\theta_{max}$, largest angle to either side, in degrees.
    """

    def __init__(self, *, channels: int = 512, size: int = 7, hidden: int = 4096, blocks: int = 4, max_degrees: float = 10.0) -> None:
        super().__init__()
        self.first = nn.Linear(channels * size * size, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.angle = nn.Linear(hidden, blocks)
        self.limit = math.radians(max_degrees)

    def forward(self, features: Float[Tensor, "*batch c n m"]) -> Float[Tensor, "*batch g"]:
        """One angle for each block, in radians. No gradient reaches the features."""
        x = self.second(self.first(features.detach().flatten(-3)).relu()).relu()
        angle: Tensor = self.angle(x)
        return self.limit * angle.tanh()


@checked
def adversarial_transformer(features: Float[Tensor, "*batch c n m"], angle: Float[Tensor, "*batch g"]) -> Float[Tensor, "*batch c n m"]:
    r"""Turns the features of a positive region, each block of channels by its own angle, so that the detector meets unusual poses.

    $$ F'_b(p) = F_b(R(\theta_b)\,(p - p_c) + p_c), \qquad R(\theta) = \begin{pmatrix} \cos\theta & -\sin\theta \\
    \sin\theta & \cos\theta \end{pmatrix} $$

    around the centre $p_c$, between cells bilinearly, with 0 beyond the border. Positions $p$ are (x, y) with y downwards, so a positive
    angle turns the features counter-clockwise. The detector is trained to lower its loss on $F'$, the adversary to raise it. In the paper
    the features come from `adversarial_dropout`.

    Args:
        features: pooled features $F$ of each region.
        angle: $\theta_b$ of each of `g` blocks of neighbouring channels, in radians. With no blocks nothing is turned.

    Returns:
        The features, which may be negative where they were.

    Raises:
        ValueError: the shapes do not fit together.
    """
    features, angle = widen(features), widen(angle)
    c, n, m = features.shape[-3:]
    blocks = angle.shape[-1]
    of_channel = torch.arange(c, device=angle.device) * blocks // max(c, 1)
    theta = pad(angle, (0, 1))[..., of_channel][..., None, None]
    y = torch.arange(n, device=angle.device, dtype=angle.dtype)[:, None] - (n - 1) / 2
    x = torch.arange(m, device=angle.device, dtype=angle.dtype) - (m - 1) / 2
    from_x = theta.cos() * x - theta.sin() * y + (m - 1) / 2
    from_y = theta.sin() * x + theta.cos() * y + (n - 1) / 2
    return bilinear(features[..., None, :, :], from_x, from_y).squeeze(-3)
