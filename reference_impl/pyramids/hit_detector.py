"""The neck of Hit-Detector: Guo, Han, Wang, Zhang, Yang, Wu, Chen and Xu, CVPR 2020."""

from collections.abc import Sequence

from torch import Tensor, nn

from reference_impl.ops.levels import check_levels, resize_like, upsample_like

__all__ = ["HitDetector"]

# What the search found, finest level first: kernel size and dilation of the cell on the way down, and of the one on the way up.
DOWN = ((5, 3), (5, 3), (5, 2), (3, 3))
UP = ((3, 3), (5, 3), (5, 3), (3, 3))


class HitDetector(nn.Module):
    r"""Leads features from coarse to fine and back, as a path aggregation network does, with receptive fields that a search has chosen.

    $$ M_i = f_i(C_i) + \mathrm{up}(M_{i+1}), \qquad N_2 = g_2(M_2), \qquad
    N_{i+1} = \mathrm{conv}_{3\times 3}\bigl(g_{i+1}(M_{i+1}) + \mathrm{maxpool}(N_i)\bigr) $$

    $f_i$ and $g_i$ are cells: a dilated convolution of each channel alone, then a 1x1 convolution of all channels, both normalised, the
    first one rectified. A cell that keeps the number of channels adds its input. Backbone, neck and head of the detector were searched
    together; here is the neck alone, for any backbone.

    Args:
        channels: of the backbone levels $C_2$ to $C_5$, finest first; 48, 96, 256 and 2048 with the backbone that was found.
        width: $w$, channels of every pyramid level.
        extra_levels: $n$, how many coarser levels to add by taking every second location of the last.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 256, extra_levels: int = 0) -> None:
        super().__init__()
        self.channels, self.extra_levels = tuple(channels), extra_levels
        if len(self.channels) != len(DOWN):
            raise ValueError(f"HitDetector: `channels` has {len(self.channels)} entries; expected {len(DOWN)}, for C2 to C5")
        self.lateral = nn.ModuleList(_Cell(c, width, *found) for c, found in zip(channels, DOWN, strict=True))
        self.refine = nn.ModuleList(_Cell(width, width, *found) for found in UP)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in UP[1:])
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Backbone levels `[b channels[i] h_i w_i]`, finest first -> four pyramid levels `[b width h_i w_i]`, and the extra ones.

        A map that is not twice as large as the next one is brought to its size by the maximum of each part.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("HitDetector", levels, self.channels)
        merged: list[Tensor] = []
        for x, lateral in zip(reversed(levels), reversed(self.lateral), strict=True):
            x = lateral(x)
            merged.insert(0, x + upsample_like(merged[0], x) if merged else x)
        first, *rest = (refine(x) for x, refine in zip(merged, self.refine, strict=True))
        pyramid = [first]
        for x, smooth in zip(rest, self.smooth, strict=True):
            pyramid.append(smooth(x + resize_like(pyramid[-1], x)))
        for _ in range(self.extra_levels):
            pyramid.append(pyramid[-1][..., ::2, ::2])
        return pyramid


class _Cell(nn.Module):
    def __init__(self, channels: int, width: int, size: int, dilation: int) -> None:
        super().__init__()
        self.keeps = channels == width
        padding = size // 2 * dilation
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, size, padding=padding, dilation=dilation, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return x + found if self.keeps else found
