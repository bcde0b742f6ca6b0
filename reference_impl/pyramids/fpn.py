"""Feature Pyramid Network: Lin, Dollár, Girshick, He, Hariharan and Belongie, CVPR 2017."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from reference_impl.ops.boxes import box_area
from reference_impl.ops.checked import checked
from reference_impl.ops.levels import check_levels, upsample_like

__all__ = ["FPN", "roi_level"]


class FPN(nn.Module):
    r"""Hands what the coarse, abstract maps know down to the fine ones, a level at a time.

    $$ M_i = \mathrm{conv}_{1\times 1}(C_i) + \mathrm{up}(M_{i+1}), \qquad P_i = \mathrm{conv}_{3\times 3}(M_i) $$

    The coarsest map has nothing above it. Upsampling repeats the nearest value, and nothing but the sums is between the convolutions: no
    normalisation, no activation. All levels then share one detection head. Proposal networks use one level more, which is every second
    location of the coarsest: `extra_levels=1`.

    Args:
        channels: of the backbone levels $C_i$, finest first; for ResNet-50's $C_2$ to $C_5$ these are 256, 512, 1024 and 2048.
        width: $d$, channels of every pyramid level.
        extra_levels: $e$, how many coarser levels to add by taking every second location of the last.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 256, extra_levels: int = 0) -> None:
        super().__init__()
        self.channels, self.extra_levels = tuple(channels), extra_levels
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        for layer in (*self.lateral, *self.smooth):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Backbone levels `[b channels[i] h_i w_i]`, finest first -> as many pyramid levels `[b width h_i w_i]`, and the extra ones.

        Sizes need not be multiples of each other.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("FPN", levels, self.channels)
        merged: list[Tensor] = []
        for x, lateral in zip(reversed(levels), reversed(self.lateral), strict=True):
            x = lateral(x)
            merged.insert(0, x + upsample_like(merged[0], x) if merged else x)
        pyramid = [smooth(x) for x, smooth in zip(merged, self.smooth, strict=True)]
        for _ in range(self.extra_levels):
            pyramid.append(pyramid[-1][..., ::2, ::2])
        return pyramid


@checked
def roi_level(
    boxes: Float[Tensor, "*batch n 4"], *, finest: int = 2, coarsest: int = 5, canonical_size: float = 224.0, canonical_level: int = 4
) -> Int[Tensor, "*batch n"]:
    r"""The pyramid level that a box is pooled from, so that boxes of all sizes cover about as many cells.

    $$ k = \left\lfloor k_0 + \log_2 \frac{\sqrt{wh}}{224} \right\rfloor $$

    for a box of $w$ by $h$ pixels, with 224 as `canonical_size`. A size of exactly $224 \cdot 2^j$, or less by up to a millionth, belongs
    to the coarser of its two levels. Boxes beyond the finest or the coarsest level get the nearest level there is; those without area get
    the finest.

    Args:
        boxes: absolute `(x1, y1, x2, y2)` in pixels of the network's input.
        finest: $k_{\min}$, number of the finest level, 2 for $P_2$.
        coarsest: $k_{\max}$, number of the coarsest level.
        canonical_size: $s_0$, side of a square that is pooled from `canonical_level`: what the backbone saw when it was trained to
            classify.
        canonical_level: $k_0$, number of the level for that size.

    Returns:
        $k$ of each box, from `finest` to `coarsest`.
    """
    size = box_area(boxes).sqrt() * (1 + 1e-6)
    doublings = (size / canonical_size).clamp(min=torch.finfo(size.dtype).tiny).log2()
    return (canonical_level + doublings).floor().clamp(finest, coarsest).long()
