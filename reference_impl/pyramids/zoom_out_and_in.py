"""Zoom out-and-in network with map attention decision: Li, Liu, Ouyang and Wang, IJCV 2019."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d

from reference_impl.ops.levels import check_levels, resize_like

__all__ = ["ZoomOutAndIn"]

# Of the branches of two Inception modules: 1x1; 3x3 after its reduction; two 3x3 after theirs; behind the pooling. For the coarsest level
# in 32nds of its channels, for the finer ones in 19ths.
Widths = tuple[int, int, int, int, int, int]
COARSEST: tuple[Widths, Widths] = ((11, 6, 10, 6, 7, 4), (11, 6, 10, 6, 7, 4))
FINER: tuple[Widths, Widths] = ((3, 4, 6, 5, 6, 4), (5, 4, 5, 4, 5, 4))


class ZoomOutAndIn(nn.Module):
    r"""Enlarges the deepest map again, with nothing from the backbone on the way, and only then joins the two, channel by channel.

    $$ B_5 = I_5(C_5), \qquad B_4 = \mathrm{conv}_1(\mathrm{up}(B_5)), \qquad B_3 = \mathrm{conv}_1(\mathrm{up}(I_4(B_4))) $$

    The backbone zooms out, this chain zooms in. $I_k$ are two Inception modules like those of the backbone at that level; upsampling is a
    bilinear deconvolution, which is not learned, and $B_k$ has the channels of $C_k$. $C_k$ and $B_k$, which have equal sizes, are stacked.
    As the two are far apart in depth, the map attention decision (MAD) of the level asks the deepest map which channels of either matter in
    this image:

    $$ P_k = \mu_k \odot [C_k, B_k], \qquad \mu_k = \sigma\Bigl(\overline{\mathrm{conv}_{3}(\max(0, \mathrm{conv}_1(C_5)))}\Bigr), \qquad
    P_5 = C_5 $$

    The coarsest level is neither stacked nor weighed. Small, medium and large anchors are then classified on $P_3$, $P_4$ and $P_5$.

    Args:
        channels: of the backbone levels, finest first; all but the finest have at least 7. With Inception v2 they are 320, 608 and 1024,
            and the branches of the modules have that network's widths; with other numbers the same shares, rounded down.
        attention: whether MAD weighs the channels; without it they are stacked as they are.
        reduction: $r$, by what the number of channels of the deepest map is divided inside MAD.
    """

    kernel: Tensor

    def __init__(self, channels: Sequence[int], *, attention: bool = True, reduction: int = 16) -> None:
        super().__init__()
        self.channels = tuple(channels)
        if len(self.channels) < 2 or min(self.channels[1:]) < 7:
            raise ValueError(f"ZoomOutAndIn: `channels` is {list(self.channels)}; expected two or more, from the second on at least 7")
        last = len(self.channels) - 1
        self.mirror = nn.ModuleList(_mirror(c, i == last) for i, c in enumerate(self.channels) if i)
        self.project = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(self.channels, self.channels[1:], strict=False))
        self.decide = nn.ModuleList(_Decision(self.channels[-1], 2 * c, reduction) for c in self.channels[:-1] if attention)
        hat = torch.tensor([0.25, 0.75, 0.75, 0.25])
        self.register_buffer("kernel", hat[:, None] * hat, persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.constant_(module.bias, 0.2)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Backbone levels `[b channels[i] h_i w_i]`, finest first -> as many of the same sizes, all but the last with twice the channels.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("ZoomOutAndIn", levels, self.channels)
        inward: list[Tensor] = []
        x = levels[-1]
        for finer, mirror, project in zip(reversed(levels[:-1]), reversed(self.mirror), reversed(self.project), strict=True):
            x = project(self._enlarge(mirror(x), finer))
            inward.insert(0, x)
        stacks = [torch.cat(maps, 1) for maps in zip(levels[:-1], inward, strict=True)]
        if self.decide:
            stacks = [decide(levels[-1]) * stack for stack, decide in zip(stacks, self.decide, strict=True)]
        return [*stacks, levels[-1]]

    def _enlarge(self, x: Tensor, other: Tensor) -> Tensor:
        """Twice the size, cut off or resized to that of `other`."""
        twice = conv_transpose2d(x, self.kernel.expand(x.shape[1], 1, 4, 4), stride=2, padding=1, groups=x.shape[1])
        return resize_like(twice[..., : other.shape[-2], : other.shape[-1]], other)


class _Decision(nn.Module):
    """One weight for each channel of a stack, from the deepest map."""

    def __init__(self, deepest: int, channels: int, reduction: int) -> None:
        super().__init__()
        inner = max(1, deepest // reduction)
        self.layers = nn.Sequential(nn.Conv2d(deepest, inner, 1), nn.ReLU(), nn.Conv2d(inner, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.layers(x).mean((-2, -1), keepdim=True).sigmoid()
        return weight


class _Inception(nn.Module):
    def __init__(self, channels: int, widths: Widths, pool: nn.Module) -> None:
        super().__init__()
        single, reduced, three, reduced_twice, twice, rest = widths
        whole = single + three + twice + rest
        single, reduced, three, reduced_twice, twice = (channels * w // whole for w in (single, reduced, three, reduced_twice, twice))
        self.single = _layer(channels, single, 1)
        self.three = nn.Sequential(_layer(channels, reduced, 1), _layer(reduced, three, 3))
        self.twice = nn.Sequential(_layer(channels, reduced_twice, 1), _layer(reduced_twice, twice, 3), _layer(twice, twice, 3))
        self.pool = nn.Sequential(pool, _layer(channels, channels - single - three - twice, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.single(x), self.three(x), self.twice(x), self.pool(x)), 1)


def _mirror(channels: int, coarsest: bool) -> nn.Sequential:
    first, second = COARSEST if coarsest else FINER
    pool = nn.MaxPool2d(3, 1, 1) if coarsest else nn.AvgPool2d(3, 1, 1)
    return nn.Sequential(_Inception(channels, first, pool), _Inception(channels, second, pool))


def _layer(channels: int, width: int, size: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, size, padding=size // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU())
