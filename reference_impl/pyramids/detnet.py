"""DetNet: Li, Peng, Yu, Zhang, Deng and Sun, ECCV 2018."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import relu

from reference_impl.ops.levels import check_levels

__all__ = ["DetNet"]


class DetNet(nn.Module):
    r"""Goes deeper without getting coarser: the last two stages of a backbone keep the size of the one before them.

    $$ x \mapsto \max(0,\; s(x) + f(x)), \qquad f = \mathrm{conv}_{1} \circ \mathrm{conv}_{3,\,d=2} \circ \mathrm{conv}_{1} $$

    The branch $f$ has kernels of 1, 3 and 1, the middle one with dilation 2. Every convolution is normalised. Each stage begins with a
    block whose shortcut $s$ is a 1x1 convolution, although neither size nor channels change: that makes it a stage of its own; in the
    blocks after it the shortcut is the input itself. Dilation widens the receptive field as a stride would, and the channels do not grow,
    which keeps the large maps affordable.

    These are the stages of DetNet-59 from the fifth on; its first four are those of ResNet-50. The whole network is trained to classify
    first, so that a detector finds both stages trained. FPN then runs over $C_2$ to $C_6$, where the last three maps have the same size.

    Args:
        channels: of the one map that is read, $C_4$.
        width: $w$, channels inside a block; each stage has four times as many.
        blocks: $n$, how many blocks a stage has.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 256, blocks: int = 3) -> None:
        super().__init__()
        self.channels = tuple(channels)
        if len(self.channels) != 1:
            raise ValueError(f"DetNet: `channels` has {len(self.channels)} entries; expected one, for one feature map")
        self.stage5 = _stage(self.channels[0], width, blocks)
        self.stage6 = _stage(4 * width, width, blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """One map `[b channels h w]` in a list -> the maps of stages 5 and 6, `[b 4 width h w]`.

        Raises:
            TypeError: the map is not a floating-point tensor.
            ValueError: there is another number of maps, or of channels.
        """
        check_levels("DetNet", levels, self.channels)
        c5 = self.stage5(levels[0])
        return [c5, self.stage6(c5)]


def _stage(channels: int, width: int, blocks: int) -> nn.Sequential:
    projected = _Block(channels, width, _normalised(channels, 4 * width))
    return nn.Sequential(projected, *(_Block(4 * width, width, nn.Identity()) for _ in range(blocks - 1)))


def _normalised(channels: int, width: int, size: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (size // 2)
    return nn.Sequential(nn.Conv2d(channels, width, size, padding=padding, dilation=dilation, bias=False), nn.BatchNorm2d(width))


class _Block(nn.Module):
    """A dilated bottleneck: type B where the shortcut is a projection, type A where it is the identity."""

    def __init__(self, channels: int, width: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.reduce = _normalised(channels, width)
        self.dilated = _normalised(width, width, 3, dilation=2)
        self.expand = _normalised(width, 4 * width)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.dilated(relu(self.reduce(x))))
        return relu(self.shortcut(x) + self.expand(y))
