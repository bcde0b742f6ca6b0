"""Multi-Level Feature Pyramid Network: Zhao, Sheng, Wang, Tang, Chen, Cai and Ling, AAAI 2019 (M2Det)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from reference_impl.ops.levels import check_levels, upsample_like

__all__ = ["MultiLevelFPN"]

KERNEL = 3
REDUCTION = 16


class MultiLevelFPN(nn.Module):
    r"""Makes one pyramid after the other, each from the one before, and stacks their maps of equal size.

    $$ B = [\mathrm{conv}_3(C_4),\; \mathrm{up}(\mathrm{conv}_1(C_5))], \qquad
    T^{(1)} = \mathrm{TUM}_1(\mathrm{conv}_1(B)), \qquad T^{(l)} = \mathrm{TUM}_l([\mathrm{conv}_1(B),\; T^{(l-1)}_1]) $$

    The first feature fusion module makes the base $B$ of two backbone levels. A thinned U-shape module (TUM) takes strided steps down and
    comes back up by sums with what it has passed; its finest map goes, together with the base, into the next one. So the later pyramids lie
    deeper, and every level of the result has shallow and deep features for its size:

    $$ P_i = X_i \odot \sigma\bigl(W_2 \max(0, W_1\,\overline{X_i})\bigr), \qquad X_i = [T^{(1)}_i, \dots, T^{(L)}_i] $$

    The last step is the scale-wise feature aggregation module (SFAM): the mean over the map decides how much each channel counts. Every
    convolution is normalised and rectified; the last strided step has no padding.

    Args:
        channels: of two backbone levels, the finer first; 512 and 1024 with VGG-16, 1024 and 2048 with ResNet.
        width: $d$, channels of a pyramid; each level of the result has `modules` times as many.
        shallow_width: $d_s$, channels that the finer backbone level is reduced to.
        deep_width: $d_d$, channels that the coarser one is reduced to.
        modules: number $L$ of pyramids.
        scales: $S$, how many levels a pyramid has.
        normalise: whether the finest level of the result is normalised over the batch, as the authors do before they detect in it.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        width: int = 256,
        shallow_width: int = 256,
        deep_width: int = 512,
        modules: int = 8,
        scales: int = 6,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        if len(self.channels) != 2:
            raise ValueError(f"MultiLevelFPN: `channels` has {len(self.channels)} entries; expected two")
        self.shallow = _layer(self.channels[0], shallow_width)
        self.deep = _layer(self.channels[1], deep_width, 1)
        self.thin = _layer(shallow_width + deep_width, width // 2, 1)
        inputs = [width // 2] + [width // 2 + width] * (modules - 1)
        self.tums = nn.ModuleList(_ThinnedUShape(c, width, scales) for c in inputs)
        self.squeeze = nn.Conv2d(width * modules, width * modules // REDUCTION, 1)
        self.excite = nn.Conv2d(width * modules // REDUCTION, width * modules, 1)
        self.norm = nn.BatchNorm2d(width * modules) if normalise else nn.Identity()

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Two backbone levels `[b channels[i] h_i w_i]` -> `scales` levels `[b modules*width h w]`, the finest as large as the finer input.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("MultiLevelFPN", levels, self.channels)
        shallow = self.shallow(levels[0])
        base = self.thin(torch.cat((shallow, upsample_like(self.deep(levels[1]), shallow)), 1))
        pyramids: list[list[Tensor]] = []
        for tum in self.tums:
            pyramids.append(tum(torch.cat((base, pyramids[-1][0]), 1) if pyramids else base))
        stacked = [torch.cat(same_size, 1) for same_size in zip(*pyramids, strict=True)]
        finest, *others = (x * self.excite(relu(self.squeeze(x.mean((-2, -1), keepdim=True)))).sigmoid() for x in stacked)
        return [self.norm(finest), *others]


class _ThinnedUShape(nn.Module):
    def __init__(self, channels: int, width: int, scales: int) -> None:
        super().__init__()
        inputs = [channels] + [width] * (scales - 1)
        self.down = nn.ModuleList(_layer(a, b, stride=2) for a, b in pairwise(inputs[:-1]))
        self.last = _layer(width, width, padding=0)
        self.top = _layer(width, width, 1)
        self.lateral = nn.ModuleList(_layer(c, width) for c in reversed(inputs[:-1]))
        self.smooth = nn.ModuleList(_layer(width, width, 1) for _ in range(scales - 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        passed = [x]
        for down in self.down:
            passed.append(down(passed[-1]))
        height, width = passed[-1].shape[-2:]
        missing = (0, max(0, KERNEL - width), 0, max(0, KERNEL - height))
        up = [self.top(self.last(pad(passed[-1], missing)))]
        for x, lateral in zip(reversed(passed), self.lateral, strict=True):
            x = lateral(x)
            up.append(upsample_like(up[-1], x) + x)
        return [*(smooth(x) for x, smooth in zip(reversed(up[1:]), reversed(self.smooth), strict=True)), up[0]]


def _layer(channels: int, width: int, size: int = KERNEL, stride: int = 1, padding: int | None = None) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, size, stride, size // 2 if padding is None else padding, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
    return nn.Sequential(convolution, nn.BatchNorm2d(width, momentum=0.01), nn.ReLU())
