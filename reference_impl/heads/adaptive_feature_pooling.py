"""Adaptive feature pooling of PANet: Liu, Qi, Qin, Shi and Jia, CVPR 2018."""

from collections.abc import Sequence
from functools import reduce
from math import gcd

import torch
from jaxtyping import Float
from torch import Tensor, nn

from reference_impl.ops.checked import checked
from reference_impl.ops.levels import check_levels
from reference_impl.ops.roi_align import roi_align

__all__ = ["AdaptiveFeaturePooling"]


class AdaptiveFeaturePooling(nn.Module):
    r"""Describes each box by what is strongest on any level: every box is pooled from all of them, whatever its size.

    $$ h = \max_l \mathrm{relu}(\mathrm{GN}_l(W_l\, \mathrm{pool}(P_l, b) + a_l)), \qquad
    y = \mathrm{relu}(\mathrm{GN}(W h + a)) $$

    for a box $b$ on the levels $P_l$, with group normalisation GN. The first fully connected layer, with weights $W_l$ and bias $a_l$, is
    one of its own for each level; the second, $W$ and $a$, is shared. The maximum is taken between the two, element by element, so that the
    gradient of an element goes to the level that is strongest there. $y$ goes to a classifier and a regressor.

    Args:
        channels: of every level.
        levels: $L$, how many pyramid levels there are.
        width: $d$, outputs of both layers.
        size: $s$, cells along each side of the pooled features.
        groups: $G$ of each normalisation; their greatest common divisor with `width`, if they do not divide it.
        scale: $r$, size of the finest feature map relative to the image; each further one is half as fine.
    """

    def __init__(self, channels: int, *, levels: int = 4, width: int = 1024, size: int = 7, groups: int = 32, scale: float = 0.25) -> None:
        super().__init__()
        self.channels, self.size = channels, size
        self.scales = [scale / 2**i for i in range(levels)]
        self.own = nn.ModuleList(_layer(channels * size**2, width, groups) for _ in range(levels))
        self.shared = _layer(width, width, groups)

    @checked
    def forward(self, levels: Sequence[Tensor], proposals: Float[Tensor, "b n 4"]) -> Float[Tensor, "b n width"]:
        """Feature maps and boxes -> one vector for each box.

        Args:
            levels: feature maps `[b channels h_i w_i]`, finest first.
            proposals: absolute `(x1, y1, x2, y2)` in pixels; no gradient passes to them.

        Returns:
            What the box head's outputs are computed from; nowhere negative.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: number, channels or order of the levels, or the shape of the boxes does not fit.
        """
        check_levels("AdaptiveFeaturePooling", levels, [self.channels] * len(self.scales))
        pooled = [roi_align(x, proposals, scale=scale, size=self.size) for x, scale in zip(levels, self.scales, strict=True)]
        described = [layer(x.flatten(0, 1).flatten(1)) for layer, x in zip(self.own, pooled, strict=True)]
        found: Tensor = self.shared(reduce(torch.maximum, described)).unflatten(0, proposals.shape[:2])
        return found


def _layer(inputs: int, outputs: int, groups: int) -> nn.Sequential:
    linear = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.GroupNorm(gcd(groups, outputs), outputs), nn.ReLU())
