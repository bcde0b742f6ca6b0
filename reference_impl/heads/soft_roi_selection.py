"""Soft RoI selection of AugFPN: Guo, Fan, Zhang, Xiang and Pan, CVPR 2020."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from reference_impl.ops.checked import checked
from reference_impl.ops.levels import check_levels
from reference_impl.ops.roi_align import roi_align

__all__ = ["SoftRoISelection"]


class SoftRoISelection(nn.Module):
    r"""Pools each box from every level, and lets the pooled features themselves say how much of which level counts in which cell.

    $$ y = \sum_l \sigma(a_l) \odot f_l, \qquad f_l = \mathrm{pool}(P_l, b), \qquad
    a = \mathrm{conv}_{3\times 3}(\mathrm{relu}(\mathrm{conv}_{1\times 1}([f_1, \dots, f_L]))) $$

    $f_l$ is what a box $b$ pools from level $P_l$, and $a_l$ is one number for each cell of that grid, the same for all channels. The
    levels do not compete: their weights need not sum to 1. Every level has a gradient for every box, directly and by way of the weights.

    Args:
        channels: of every level.
        levels: $L$, how many pyramid levels there are.
        size: $s$, cells along each side of the pooled features.
        scale: $r$, size of the finest feature map relative to the image; each further one is half as fine.
    """

    def __init__(self, channels: int, *, levels: int = 4, size: int = 7, scale: float = 0.25) -> None:
        super().__init__()
        self.channels, self.size = channels, size
        self.scales = [scale / 2**i for i in range(levels)]
        self.reduce = nn.Conv2d(channels * levels, channels, 1)
        self.weigh = nn.Conv2d(channels, levels, 3, padding=1)
        for parameter in self.parameters():
            if parameter.dim() == 1:
                nn.init.zeros_(parameter)
            else:
                nn.init.xavier_uniform_(parameter)

    @checked
    def forward(self, levels: Sequence[Tensor], proposals: Float[Tensor, "b n 4"]) -> Float[Tensor, "b n channels size size"]:
        """Feature maps and boxes -> pooled features of each box.

        Args:
            levels: feature maps `[b channels h_i w_i]`, finest first.
            proposals: absolute `(x1, y1, x2, y2)` in pixels; no gradient passes to them.

        Returns:
            One grid for each box, for the box head.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: number, channels or order of the levels, or the shape of the boxes does not fit.
        """
        check_levels("SoftRoISelection", levels, [self.channels] * len(self.scales))
        pooled = [roi_align(x, proposals, scale=scale, size=self.size) for x, scale in zip(levels, self.scales, strict=True)]
        stacked = torch.cat(pooled, 2).flatten(0, 1)
        weight: Tensor = self.weigh(relu(self.reduce(stacked))).sigmoid().unflatten(0, proposals.shape[:2])
        return (torch.stack(pooled, 2) * weight[:, :, :, None]).sum(2)
