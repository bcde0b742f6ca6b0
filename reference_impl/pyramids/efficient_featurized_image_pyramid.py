"""Efficient Featurized Image Pyramid: Pang, Wang, Anwer, Khan and Shao, CVPR 2019."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from reference_impl.ops.checked import checked
from reference_impl.ops.levels import check_levels, resize_like

__all__ = ["EfficientFeaturizedImagePyramid"]


class EfficientFeaturizedImagePyramid(nn.Module):
    r"""Gives each level of a single-shot detector a few features of its own copy of the image, small enough to cost little.

    $$ y_l = \mathrm{conv}\left(\max\left(0,\; x_l \odot A_l(I_l) + \mathrm{conv}_{s=2}(y_{l-1})\right)\right),
    \qquad I_l = \mathrm{pool}(I_{l-1}) $$

    $x_l$ is a level of the detector, $y_l$ what it becomes, and $A_l$ a light network on the image at the level's size: pairs of a 3x3 and
    a 1x1 convolution, two for the finest level, three for the others, a quarter as wide as the level inside. The product is the attention
    of features; the sum, from the second level on, the forward fusion. Every convolution is normalised, and rectified but for the last of
    $A_l$ and the strided one. Levels of layers that are not normalised, as VGG's, are normalised before the product. The detector predicts
    from $y_l$, and from coarser levels as they are.

    Args:
        channels: of the levels, finest first, at strides 8, 16 and so on; in the authors' network 512, 1024, 512 and 256.
        raw: $r$, how many of the finest levels come from layers without normalisation.
    """

    def __init__(self, channels: Sequence[int], *, raw: int = 2) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.light = nn.ModuleList(_light(c, 3 if i else 2) for i, c in enumerate(channels))
        self.norms = nn.ModuleList(nn.BatchNorm2d(c, momentum=0.01) if i < raw else nn.Identity() for i, c in enumerate(channels))
        self.down = nn.ModuleList(_layer(a, b, 3, stride=2) for a, b in pairwise(channels))
        self.merge = nn.ModuleList(_layer(c, c, 3) for c in channels)

    @checked
    def forward(self, levels: Sequence[Tensor], image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Levels `[b channels[i] h_i w_i]`, and the image as the backbone gets it -> as many levels of the same sizes.

        Halved three times, the image should have the size of the first level, and so on; where that misses a level by a cell, the light
        features are brought to fit.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: the number of levels, their channels or their order does not fit.
        """
        check_levels("EfficientFeaturizedImagePyramid", levels, self.channels)
        small = _halve(_halve(image))
        found: list[Tensor] = []
        for i, x in enumerate(levels):
            small = _halve(small)
            mixed = self.norms[i](x) * resize_like(self.light[i](small), x)
            if found:
                mixed = mixed + resize_like(self.down[i - 1](found[-1]), x)
            found.append(relu(self.merge[i](relu(mixed))))
        return found


def _halve(x: Tensor) -> Tensor:
    """The maximum over squares of two; where a side is odd, its first location has a square of its own."""
    return max_pool2d(x, 2, padding=(x.shape[-2] % 2, x.shape[-1] % 2))


def _light(width: int, pairs: int) -> nn.Sequential:
    inner = width // 4
    layers: list[nn.Module] = []
    for i in range(pairs):
        last = i == pairs - 1
        layers += [_layer(inner if i else 3, inner, 3), nn.ReLU(), _layer(inner, width if last else inner, 1)]
        layers += [] if last else [nn.ReLU()]
    return nn.Sequential(*layers)


def _layer(channels: int, width: int, size: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, size, stride, size // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
    return nn.Sequential(convolution, nn.BatchNorm2d(width, momentum=0.01))
