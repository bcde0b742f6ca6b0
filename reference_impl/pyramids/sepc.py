"""Scale-equalizing pyramid convolution (SEPC): Wang, Zhang, Yu, Feng and Zhang, CVPR 2020."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from reference_impl.ops.deformable import deformable_conv
from reference_impl.ops.levels import as_one_map, check_levels, resize_like

__all__ = ["SEPC", "SEPCBranch"]


class SEPC(nn.Module):
    r"""Convolves over space and scale at once, and lets the shared kernel deform at coarser levels to the extent it has at the finest.

    $$ y_l = \max\left(0,\; \mathrm{norm}\left(w_0 *_{\Delta} x_l + w_{-} *_{\Delta,\,s=2} x_{l-1} +
    \mathrm{up}(w_{+} *_{\Delta} x_{l+1})\right)\right) $$

    $x_{l-1}$ is the finer map, $x_{l+1}$ the coarser one, upsampled bilinearly after its convolution, corners on corners; at the ends of
    the pyramid the missing term is left out. Where $y_l$ is the finest level, its convolutions are plain. For all others they are
    deformable: the taps move by $\Delta$, which a 3x3 convolution of the map that is read predicts, and which is 0 at the start. Kernels
    and offset predictors are the same at all levels, and the normalisation takes its mean and variance over the whole pyramid.

    A detector with one stage has this in place of the convolutions of its head, and a `SEPCBranch` each for classes and boxes behind
    it. SEPC-lite keeps plain pyramid convolution and has only the two branches deform.

    Args:
        levels: how many levels there are.
        width: $d$, channels of every level.
        layers: $n$, how many layers follow each other.
    """

    def __init__(self, levels: int, *, width: int = 256, layers: int = 4) -> None:
        super().__init__()
        self.channels = (width,) * levels
        self.layers = nn.ModuleList(_Layer(width) for _ in range(layers))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels `[b width h_i w_i]`, finest first -> as many of the same sizes.

        A map that stride 2 does not bring to the size of the next level is brought there by the maximum of each part.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("SEPC", levels, self.channels)
        found = list(levels)
        for layer in self.layers:
            found = layer(found)
        return found


class SEPCBranch(nn.Module):
    """The last convolution before the prediction of classes, or of boxes: plain at the finest level, deformable at all others.

    It is the same at all levels, and so is its normalisation, over the whole pyramid; a rectifier follows.

    Args:
        levels: how many levels there are.
        width: $d$, channels of every level.
    """

    def __init__(self, levels: int, *, width: int = 256) -> None:
        super().__init__()
        self.channels = (width,) * levels
        self.convolution = _Convolution(width)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """As `SEPC.forward`."""
        check_levels("SEPCBranch", levels, self.channels)
        return [relu(x) for x in as_one_map(self.norm, [self.convolution(x, deform=i > 0) for i, x in enumerate(levels)])]


class _Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.from_coarser, self.same, self.from_finer = _Convolution(width), _Convolution(width), _Convolution(width, stride=2)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        found = [self.same(x, deform=i > 0) for i, x in enumerate(levels)]
        for i in range(1, len(levels)):
            found[i] = found[i] + resize_like(self.from_finer(levels[i - 1], deform=True), found[i])
        for i in range(len(levels) - 1):
            above = self.from_coarser(levels[i + 1], deform=i > 0)
            found[i] = found[i] + interpolate(above, size=found[i].shape[-2:], mode="bilinear", align_corners=True)
        return [relu(x) for x in as_one_map(self.norm, found)]


class _Convolution(nn.Module):
    """A 3x3 convolution that deforms where the call says so."""

    def __init__(self, width: int, *, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.plain = nn.Conv2d(width, width, 3, padding=1, stride=stride)
        self.offsets = nn.Conv2d(width, 2 * 3 * 3, 3, padding=1, stride=stride)
        nn.init.normal_(self.plain.weight, std=0.01)
        nn.init.zeros_(self.offsets.weight)
        for convolution in (self.plain, self.offsets):
            assert convolution.bias is not None
            nn.init.zeros_(convolution.bias)

    def forward(self, x: Tensor, *, deform: bool) -> Tensor:
        if not deform:
            plain: Tensor = self.plain(x)
            return plain
        return deformable_conv(x, self.offsets(x), self.plain.weight, self.plain.bias, stride=self.stride, padding=1)
