"""Pyramid convolution: Wang, Zhang, Yu, Feng and Zhang, CVPR 2020."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from reference_impl.ops.levels import as_one_map, check_levels, resize_like

__all__ = ["PyramidConvolution"]


class PyramidConvolution(nn.Module):
    r"""Convolves over space and scale at once, with a kernel of three levels that slides along the pyramid.

    $$ y_l = \max\left(0,\; \mathrm{norm}\left(w_0 * x_l + w_{-} *_{s=2} x_{l-1} + \mathrm{up}(w_{+} * x_{l+1})\right)\right) $$

    $x_{l-1}$ is the finer map, read with stride 2, and $x_{l+1}$ the coarser one, upsampled bilinearly after its convolution, corners on
    corners. At the ends of the pyramid the missing term is left out. The three kernels, $w_-$, $w_0$ and $w_+$, are the same at all levels.
    The normalisation is one, too: its mean and variance are those of all locations of all levels together. A layer carries information one
    level up and one level down; detectors with one stage put four of them in place of the convolutions of their head.

    Args:
        levels: how many levels there are.
        width: $d$, channels of every level.
        layers: $n$, how many pyramid convolutions follow each other.
        integrated_norm: whether there is a normalisation over the whole pyramid; without it, small batches do no harm.
    """

    def __init__(self, levels: int, *, width: int = 256, layers: int = 4, integrated_norm: bool = True) -> None:
        super().__init__()
        self.channels = (width,) * levels
        self.layers = nn.ModuleList(_Layer(width, integrated_norm) for _ in range(layers))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels `[b width h_i w_i]`, finest first -> as many of the same sizes.

        A map that stride 2 does not bring to the size of the next level is brought there by the maximum of each part.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("PyramidConvolution", levels, self.channels)
        found = list(levels)
        for layer in self.layers:
            found = layer(found)
        return found


class _Layer(nn.Module):
    def __init__(self, width: int, integrated_norm: bool) -> None:
        super().__init__()
        self.from_coarser = nn.Conv2d(width, width, 3, padding=1)
        self.same = nn.Conv2d(width, width, 3, padding=1)
        self.from_finer = nn.Conv2d(width, width, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm1d(width) if integrated_norm else nn.Identity()
        for convolution in (self.from_coarser, self.same, self.from_finer):
            nn.init.normal_(convolution.weight, std=0.01)
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        found = [self.same(x) for x in levels]
        for i in range(1, len(levels)):
            found[i] = found[i] + resize_like(self.from_finer(levels[i - 1]), found[i])
        for i in range(len(levels) - 1):
            above = self.from_coarser(levels[i + 1])
            found[i] = found[i] + interpolate(above, size=found[i].shape[-2:], mode="bilinear", align_corners=True)
        return [relu(x) for x in as_one_map(self.norm, found)]
