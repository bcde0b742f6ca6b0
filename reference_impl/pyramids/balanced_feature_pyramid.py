"""Balanced feature pyramid: Pang, Chen, Shi, Feng, Ouyang and Lin, CVPR 2019 (Libra R-CNN)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from reference_impl.ops.levels import check_levels, resize_like

__all__ = ["BalancedFeaturePyramid"]


class BalancedFeaturePyramid(nn.Module):
    r"""Gives every level an equal part of all levels: their mean, refined once, is added to each.

    $$ M = \frac{1}{L} \sum_i \mathrm{resize}(P_i), \qquad P_i' = P_i + \mathrm{resize}(R(M)) $$

    $P_i$ are the $L$ levels and $M$ is their mean, which has no parameters: all levels are brought to one size, finer ones by the maximum
    of each part, coarser ones by the nearest value. $R$ refines the mean by a non-local block, in which each location looks at all others:

    $$ R(x)_u = x_u + W_o \sum_v a_{uv}\,W_g x_v, \qquad a_{uv} = \mathop{\mathrm{softmax}}_v\,\langle W_\theta x_u, W_\phi x_v \rangle $$

    $W_o$ starts at 0, so that training starts from the mean itself. The other way to refine, $R(x)=\max(0,\mathrm{conv}_{3\times 3}(x))$,
    is a 3x3 convolution and a ReLU, by which each location sees only its neighbours; the authors find it less stable.

    Args:
        levels: how many levels there are.
        width: $d$, channels of every level.
        refine_level: $r$, the level, counted from the finest as 0, at whose size the mean is taken.
        refine: whether the mean is refined; without that the method has no parameters at all.
        attend: whether the mean is refined by the non-local block; otherwise by the convolution.

    Raises:
        ValueError: there is no level `refine_level`.
    """

    def __init__(self, levels: int, *, width: int = 256, refine_level: int = 2, refine: bool = True, attend: bool = True) -> None:
        super().__init__()
        if not 0 <= refine_level < levels:
            raise ValueError(f"BalancedFeaturePyramid: `refine_level` is {refine_level}; expected 0 to {levels - 1}")
        self.channels, self.refine_level = (width,) * levels, refine_level
        self.refine = nn.Identity() if not refine else _NonLocal(width) if attend else _convolution(width)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Pyramid levels `[b width h_i w_i]`, finest first -> as many of the same sizes.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("BalancedFeaturePyramid", levels, self.channels)
        middle = levels[self.refine_level]
        mean = self.refine(torch.stack([resize_like(x, middle) for x in levels]).mean(0))
        return [x + resize_like(mean, x) for x in levels]


class _NonLocal(nn.Module):
    """The embedded Gaussian form, with as many channels inside as outside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.theta, self.phi, self.g, self.out = (nn.Conv2d(width, width, 1) for _ in range(4))
        for layer in (self.theta, self.phi, self.g, self.out):
            assert layer.bias is not None
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g = (layer(x).flatten(2).mT for layer in (self.theta, self.phi, self.g))
        attention = (theta @ phi.mT).softmax(-1)
        # Rows, not yet a map: where sizes change, torch's compiler for the CPU cannot lower a convolution of a matrix product.
        seen = linear(attention @ g, self.out.weight.flatten(1), self.out.bias)
        return x + seen.mT.reshape(x.shape)


def _convolution(width: int) -> nn.Sequential:
    layer = nn.Conv2d(width, width, 3, padding=1)
    assert layer.bias is not None
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(layer, nn.ReLU())
