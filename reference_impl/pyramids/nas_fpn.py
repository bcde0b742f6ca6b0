"""NAS-FPN: Ghiasi, Lin, Pang and Le, CVPR 2019."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu

from reference_impl.ops.levels import check_levels, resize_like

__all__ = ["NASFPN"]

# The network that the search found. Maps are numbered in the order in which they are made: 0 to 4 are P3 to P7, each row makes one more.
# A row: the level of the new map, whether it gates one map by the other, the maps that it merges, and those that are added besides.
CELLS = (
    (4, True, (1, 3), ()),
    (4, False, (1, 5), ()),
    (3, False, (0, 6), ()),
    (4, False, (6, 7), ()),
    (5, True, (7, 8), (2,)),
    (7, True, (6, 9), (4,)),
    (6, True, (9, 10), ()),
)
OUTPUTS = (7, 8, 9, 11, 10)
FINEST, BACKBONE = 3, 3


class NASFPN(nn.Module):
    r"""Joins levels as a search has found best: by seven cells that each merge two maps, all repeated several times.

    $$ \mathrm{sum}(x, y) = x + y, \qquad \mathrm{attention}(x, y) = x + \sigma(\max_{u} x_u)\,y $$

    The coarser of two maps is the $x$ of an attention: its maximum over the image gates the finer one, channel by channel. Both are first
    brought to the size of the new map, by the maximum of each part or by the nearest value; then the new map is rectified, convolved
    3 x 3, and normalised. The finest output is merged straight back into $P_4$ and $P_5$, and $P_5$ into $P_7$: a fine feature is one or
    two cells away from the coarsest level. $P_6$ and $P_7$ start as maxima over 2 x 2 cells of the level before.

    Args:
        channels: of the backbone levels $C_3$, $C_4$ and $C_5$; with ResNet-50 512, 1024 and 2048.
        width: $d$, channels of every pyramid level.
        stacks: $n$, how many times the seven cells follow each other.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 256, stacks: int = 7) -> None:
        super().__init__()
        self.channels = tuple(channels)
        if len(self.channels) != BACKBONE:
            raise ValueError(f"NASFPN: `channels` has {len(self.channels)} entries; expected {BACKBONE}, for C3, C4 and C5")
        self.lateral = nn.ModuleList(_normalised(c, width, 1) for c in channels)
        self.stacks = nn.ModuleList(nn.ModuleList(_normalised(width, width, 3) for _ in CELLS) for _ in range(stacks))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Backbone levels `[b channels[i] h_i w_i]`, finest first -> the five levels P3 to P7, `[b width h_i w_i]`.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("NASFPN", levels, self.channels)
        maps = [lateral(x) for x, lateral in zip(levels, self.lateral, strict=True)]
        for _ in range(2):
            maps.append(max_pool2d(maps[-1], 2, ceil_mode=True))
        for cells in self.stacks:
            maps = _stack(maps, cells.children())
        return maps


def _stack(levels: list[Tensor], cells: Iterable[nn.Module]) -> list[Tensor]:
    maps, level_of = list(levels), [FINEST + i for i in range(len(levels))]
    for (level, gated, pair, besides), convolve in zip(CELLS, cells, strict=True):
        like = levels[level - FINEST]
        coarse, fine = (resize_like(maps[i], like) for i in sorted(pair, key=lambda i: -level_of[i]))
        merged = coarse + (torch.amax(coarse, (-2, -1), keepdim=True).sigmoid() * fine if gated else fine)
        for i in besides:
            merged = merged + maps[i]
        maps.append(convolve(relu(merged)))
        level_of.append(level)
    return [maps[i] for i in OUTPUTS]


def _normalised(channels: int, width: int, size: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, size, padding=size // 2), nn.BatchNorm2d(width))
