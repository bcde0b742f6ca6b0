"""Auto-FPN's fusion of levels: Xu, Yao, Zhang, Liang and Li, ICCV 2019."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from reference_impl.ops.levels import check_levels, resize_like

__all__ = ["AutoFPN", "AutoFPNSearch"]

# What a connection may be besides missing and a skip: how many convolutions, their size and their dilation.
CONVOLUTIONS = {
    "dilated_3x3_rate_2": (1, 3, 2),
    "dilated_5x5_rate_2": (1, 5, 2),
    "dilated_3x3_rate_3": (1, 3, 3),
    "dilated_5x5_rate_3": (1, 5, 3),
    "separable_3x3": (2, 3, 1),
    "separable_5x5": (2, 5, 1),
}
CANDIDATES = ("none", "skip", *CONVOLUTIONS)


class AutoFPN(nn.Module):
    r"""Joins any level to any other, each pair by the operation that a search has chosen for it.

    $$ P_i = \sum_j o_{ij}\bigl(\mathrm{resize}(\mathrm{conv}_{1\times 1}(C_j))\bigr) $$

    A connection $o_{ij}$ is missing, a skip, a dilated convolution or a separable one, by name: none, skip, dilated_3x3_rate_2,
    dilated_5x5_rate_2, dilated_3x3_rate_3, dilated_5x5_rate_3, separable_3x3 or separable_5x5. So a low level may be one operation away
    from the coarsest output, and far from an output that has no use for it. A dilated one is a ReLU, a convolution of each channel alone, a
    1x1 convolution of all channels and a normalisation; a separable one is two of these without dilation.

    Args:
        channels: of the backbone levels $C_j$, finest first.
        genotype: a row for each pyramid level, finest first: the names of $o_{i1}, o_{i2}, \ldots$, as `AutoFPNSearch.genotype` gives them.
        width: $d$, channels of every pyramid level.

    Raises:
        ValueError: a row has not one name for each backbone level, only missing connections, or a name of no operation.
    """

    def __init__(self, channels: Sequence[int], genotype: Sequence[Sequence[str]], *, width: int = 256) -> None:
        super().__init__()
        self.channels = tuple(channels)
        _check(genotype, len(self.channels))
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.fuse = nn.ModuleList(_Level(row, width) for row in genotype)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Backbone levels `[b channels[i] h_i w_i]`, finest first -> as many pyramid levels, `[b width h_i w_i]`.

        Sizes need not be multiples of each other: finer maps come by the maximum of each part, coarser ones by the nearest value.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("AutoFPN", levels, self.channels)
        maps = [lateral(x) for x, lateral in zip(levels, self.lateral, strict=True)]
        return [fuse([resize_like(x, like) for x in maps]) for like, fuse in zip(maps, self.fuse, strict=True)]


class AutoFPNSearch(nn.Module):
    r"""The network in which such a pyramid is searched: every connection computes all operations at once and sums them by learned weights.

    $$ P_i = \sum_j \sum_o \mathrm{softmax}_o(\alpha_{ij})\, o_{ij}\bigl(\mathrm{resize}(\mathrm{conv}_{1\times 1}(C_j))\bigr) $$

    Thus the detector's loss has a gradient on the choice of connections: on $\alpha$, the parameter `architecture`. It is trained in turn
    with all other parameters, on images that are held out from them. The `genotype` found then makes an `AutoFPN`.

    Args:
        channels: of the backbone levels $C_j$, finest first.
        width: $d$, channels of every pyramid level.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 256) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.architecture = nn.Parameter(torch.zeros(len(self.channels), len(self.channels), len(CANDIDATES)))
        self.fuse = nn.ModuleList(_MixedLevel(len(self.channels), width) for _ in channels)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """As of `AutoFPN`."""
        check_levels("AutoFPNSearch", levels, self.channels)
        maps = [lateral(x) for x, lateral in zip(levels, self.lateral, strict=True)]
        weights = self.architecture.softmax(-1)
        return [fuse([resize_like(x, like) for x in maps], w) for like, fuse, w in zip(maps, self.fuse, weights, strict=True)]

    def genotype(self) -> list[list[str]]:
        """The operation with the largest weight: a row for each pyramid level, a name for each backbone level.

        Where every connection of a level would be missing, the operation with the largest weight of all that are not "none" is kept.
        """
        found = []
        for weights in self.architecture.softmax(-1):
            row = [CANDIDATES[k] for k in weights.argmax(-1).tolist()]
            if set(row) == {"none"}:
                level, operation = divmod(int(weights[:, 1:].argmax()), len(CANDIDATES) - 1)
                row[level] = CANDIDATES[1 + operation]
            found.append(row)
        return found


class _Level(nn.Module):
    def __init__(self, row: Sequence[str], width: int) -> None:
        super().__init__()
        self.sources = [j for j, name in enumerate(row) if name != "none"]
        self.operations = nn.ModuleList(_operation(row[j], width) for j in self.sources)

    def forward(self, maps: list[Tensor]) -> Tensor:
        fused: Tensor = reduce(torch.add, (operation(maps[j]) for j, operation in zip(self.sources, self.operations, strict=True)))
        return fused


class _MixedLevel(nn.Module):
    def __init__(self, levels: int, width: int) -> None:
        super().__init__()
        names = CANDIDATES[1:] * levels
        self.operations = nn.ModuleList(_operation(name, width, affine=False) for name in names)

    def forward(self, maps: list[Tensor], weights: Tensor) -> Tensor:
        """`maps` at the size of the level, and `weights` `[levels candidates]`; those of "none" add nothing."""
        inputs = (x for x in maps for _ in CANDIDATES[1:])
        used = weights[:, 1:].flatten()
        fused: Tensor = reduce(torch.add, (w * operation(x) for x, operation, w in zip(inputs, self.operations, used, strict=True)))
        return fused


def _operation(name: str, width: int, *, affine: bool = True) -> nn.Module:
    if name == "skip":
        return nn.Identity()
    times, size, dilation = CONVOLUTIONS[name]
    layers: list[nn.Module] = []
    for _ in range(times):
        layers += [
            nn.ReLU(),
            nn.Conv2d(width, width, size, padding=size // 2 * dilation, dilation=dilation, groups=width, bias=False),
            nn.Conv2d(width, width, 1, bias=False),
            nn.BatchNorm2d(width, affine=affine),
        ]
    return nn.Sequential(*layers)


def _check(genotype: Sequence[Sequence[str]], levels: int) -> None:
    if len(genotype) != levels:
        raise ValueError(f"AutoFPN: `genotype` has {len(genotype)} rows; expected {levels}, one for each level")
    for i, row in enumerate(genotype):
        if len(row) != levels or any(name not in CANDIDATES for name in row):
            raise ValueError(f"AutoFPN: `genotype[{i}]` is {list(row)}; expected {levels} of {', '.join(CANDIDATES)}")
        if all(name == "none" for name in row):
            raise ValueError(f"AutoFPN: `genotype[{i}]` leaves its level without a connection")
