"""Parallel feature pyramid: Kim, Kook, Sun, Kang and Ko, ECCV 2018 (PFPNet)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from reference_impl.ops.levels import check_levels

__all__ = ["ParallelFPN"]


class ParallelFPN(nn.Module):
    r"""Makes all levels side by side from one map, so that none of them is more abstract than another.

    $$ F_i = \mathrm{pool}_{2^i}(F), \qquad R_i = \mathrm{reduce}_i(F_i), \qquad
    P_i = \mathrm{conv}_{3\times 3}^2\bigl([F_i, \mathrm{resize}(R_j)_{j \ne i}]\bigr) $$

    $F$ stacks the backbone's last maps at the size of the largest; its pooled copies $F_i$ are means of ever larger parts. A bottleneck
    reduces each to `width` channels. Then a level's context module sees its own $F_i$ in full and the reduced maps of all others, brought
    to its size by means or by bilinear interpolation. Each convolution reads a normalised and rectified map, and the outputs are such maps;
    a detector that refines its anchors makes its first prediction from the rectified $R_i$, which `reduced` gives before the activation.

    Args:
        channels: of the backbone maps that are stacked, finest first, before their activation; with VGG-16 512, 512 and 1024.
        width: $C_L$, channels of every level, and of each backbone map in the stack.
        scales: $N$, how many levels are made.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 256, scales: int = 4) -> None:
        super().__init__()
        self.channels = tuple(channels)
        stacked = width * len(self.channels)
        self.lateral = nn.ModuleList(_activated(c, width, 1) for c in channels)
        self.stack = _activated(stacked, stacked, 1)
        self.reduce = nn.ModuleList(
            nn.Sequential(_activated(stacked, width // 2, 1), _activated(width // 2, width, 3)) for _ in range(scales)
        )
        self.aggregate = nn.ModuleList(
            nn.Sequential(_activated(stacked + (scales - 1) * width, width, 3), _activated(width, width, 3), _norm(width), nn.ReLU())
            for _ in range(scales)
        )

    def pooled(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Backbone levels -> the stack $F$ of all of them at the size of the first, and its means over 2 x 2, 4 x 4, ... cells."""
        height, width = levels[0].shape[-2:]
        maps = [lateral(x) for x, lateral in zip(levels, self.lateral, strict=True)]
        stack = self.stack(torch.cat([_resize(x, height, width) for x in maps], 1))
        return [_resize(stack, -(-height // 2**i), -(-width // 2**i)) for i in range(len(self.reduce))]

    def reduced(self, pooled: Sequence[Tensor]) -> list[Tensor]:
        """The stack at all scales -> the bottlenecks' maps `[b width h_i w_i]`, not rectified."""
        return [reduce(x) for x, reduce in zip(pooled, self.reduce, strict=True)]

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Backbone levels `[b channels[i] h_i w_i]`, finest first -> `scales` levels `[b width . .]`, each half as large, rounded up.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("ParallelFPN", levels, self.channels)
        pooled = self.pooled(levels)
        reduced = self.reduced(pooled)
        pyramid = []
        for i, (own, aggregate) in enumerate(zip(pooled, self.aggregate, strict=True)):
            seen = [own if j == i else _resize(x, own.shape[-2], own.shape[-1]) for j, x in enumerate(reduced)]
            pyramid.append(aggregate(torch.cat(seen, 1)))
        return pyramid


def _activated(channels: int, width: int, size: int) -> nn.Sequential:
    return nn.Sequential(_norm(channels), nn.ReLU(), nn.Conv2d(channels, width, size, padding=size // 2, bias=False))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, momentum=1e-3, affine=False)


def _resize(x: Tensor, height: int, width: int) -> Tensor:
    """By bilinear interpolation where that is larger, by the mean of each part where it is smaller."""
    if x.shape[-2] == height and x.shape[-1] == width:
        return x
    if x.shape[-2] < height or x.shape[-1] < width:
        return interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
    return adaptive_avg_pool2d(x, (height, width))
