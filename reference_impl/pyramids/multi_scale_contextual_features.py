"""Multi-scale contextual features of EFGRNet: Nie, Anwer, Cholakkal, Khan, Pang and Shao, ICCV 2019."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from reference_impl.ops.checked import checked
from reference_impl.ops.levels import check_levels, resize_like

__all__ = ["ContextInjection", "MultiScaleContextualFeatures"]


class MultiScaleContextualFeatures(nn.Module):
    r"""Looks at a small copy of the image through windows of three widths, for context that a backbone's early map does not have.

    $$ S = \mathrm{conv}_{1}\left(\left[\mathrm{conv}_{3,\,d}(z)\right]_{d = 1, 2, 4}\right),
    \qquad z = \mathrm{conv}_{1}(\mathrm{conv}_{3}(\mathrm{pool}(I))) $$

    $I$ is the image, $d$ the dilation. Each of the three windows begins with a 1x1 convolution of its own that leaves a quarter of the
    channels. Every convolution is normalised and rectified, but the last, which is normalised only. `ContextInjection` multiplies the
    result into the detector's levels.

    Args:
        width: $w$, channels of the result, as many as the detector's finest level has; a quarter of them, and a quarter of that, are
            inside.
        stride: $s$ of that level. The image is reduced to its size by the maximum over squares of this side; what is left over is cut off.
    """

    def __init__(self, *, width: int = 512, stride: int = 8) -> None:
        super().__init__()
        inner, innermost = width // 4, width // 16
        self.stride = stride
        self.stem = nn.Sequential(_layer(3, inner, 3), nn.ReLU(), _layer(inner, inner, 1), nn.ReLU())
        self.views = nn.ModuleList(
            nn.Sequential(_layer(inner, innermost, 1), nn.ReLU(), _layer(innermost, innermost, 3, dilation=d), nn.ReLU()) for d in (1, 2, 4)
        )
        self.join = _layer(3 * innermost, width, 1)

    @checked
    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b width y x"]:
        """The image as the backbone gets it -> a map of `h // stride` by `w // stride` locations."""
        z = self.stem(max_pool2d(image, self.stride))
        found: Tensor = self.join(torch.cat([view(z) for view in self.views], 1))
        return found


class ContextInjection(nn.Module):
    r"""Multiplies context into the levels of a single-shot detector, from the finest to the coarsest.

    $$ y_1 = \mathrm{conv}(x_1 \odot S), \qquad y_l = \mathrm{conv}\left(x_l \odot \mathrm{conv}_{s=2}(y_{l-1})\right) $$

    Each convolution is 3x3, normalised and rectified, but the strided one is normalised only. Levels of layers that are not normalised, as
    VGG's, are normalised before the product, which is rectified there, too. The detector predicts from all $y_l$.

    Args:
        channels: of the levels, finest first; in the authors' network with VGG 512, 1024, 256 and 256.
        raw: $r$, how many of the finest levels come from layers without normalisation: 2 with VGG, 0 with ResNet.
    """

    def __init__(self, channels: Sequence[int], *, raw: int = 2) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c, momentum=0.01) for c in channels[:raw])
        self.smooth = nn.ModuleList(_layer(c, c, 3) for c in channels)
        self.down = nn.ModuleList(_layer(a, b, 3, stride=2) for a, b in pairwise(channels))

    @checked
    def forward(self, levels: Sequence[Tensor], context: Float[Tensor, "b channels h w"]) -> list[Tensor]:
        """Levels `[b channels[i] h_i w_i]`, and the context of the first -> as many levels of the same sizes.

        Context of another size than its level is brought there by the nearest value or by the maximum of each part.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: the number of levels, their channels or their order does not fit.
        """
        check_levels("ContextInjection", levels, self.channels)
        found: list[Tensor] = []
        for i, x in enumerate(levels):
            context = resize_like(self.down[i - 1](found[-1]) if found else context, x)
            mixed = relu(self.norms[i](x) * context) if i < len(self.norms) else x * context
            found.append(relu(self.smooth[i](mixed)))
        return found


def _layer(channels: int, width: int, size: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, size, stride, dilation * (size // 2), dilation, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
    return nn.Sequential(convolution, nn.BatchNorm2d(width, momentum=0.01))
