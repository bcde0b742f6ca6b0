"""Deep feature pyramid reconfiguration: Kong, Sun, Huang and Liu, ECCV 2018."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reference_impl.ops.levels import check_levels, resize_like

__all__ = ["DeepReconfiguration"]


class DeepReconfiguration(nn.Module):
    r"""Adds to each backbone level a residual that is made of all levels together, in one non-linear step instead of many linear ones.

    $$ X_i = [\mathrm{resize}(C_j)]_j, \qquad s_i = \sigma\bigl(W_2\,\mathrm{ReLU}(W_1\,\mathrm{mean}_u X_{i,u})\bigr), \qquad
    P_i = C_i + \mathrm{conv}_{1\times 1,\,3\times 3,\,1\times 1}(s_i\,X_i) $$

    $X_i$ stacks all levels at the size of level $i$. $s_i$, one number for each of its channels, is global attention: squeeze and
    excitation of the mean over all locations $u$ by two fully connected layers, $W_1$ and $W_2$. The three convolutions, with a ReLU
    between them, are local reconfiguration. Every level has a gate and convolutions of its own, so no level has to wait for another one.

    Args:
        channels: of the backbone levels $C_i$, finest first; each output has those of its level. 512, 1024 and 2048 for ResNet-50's $C_3$
            to $C_5$.
        width: $d$, channels within the local reconfiguration.
        reduction: $r$, how many channels of $X$ share one squeezed number.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 256, reduction: int = 16) -> None:
        super().__init__()
        self.channels = tuple(channels)
        gathered = sum(self.channels)
        squeezed = max(1, gathered // reduction)
        self.attend = nn.ModuleList(
            nn.Sequential(nn.Linear(gathered, squeezed), nn.ReLU(), nn.Linear(squeezed, gathered), nn.Sigmoid()) for _ in channels
        )
        self.reconfigure = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(gathered, width, 1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, c, 1)
            )
            for c in channels
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Backbone levels `[b channels[i] h_i w_i]`, finest first -> as many of the same shapes.

        Sizes need not be multiples of each other: finer maps come by the maximum of each part, coarser ones by the nearest value.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("DeepReconfiguration", levels, self.channels)
        pyramid = []
        for x, attend, reconfigure in zip(levels, self.attend, self.reconfigure, strict=True):
            gathered = torch.cat([resize_like(other, x) for other in levels], 1)
            gate = attend(gathered.mean((-2, -1)))
            pyramid.append(x + reconfigure(gathered * gate[..., None, None]))
        return pyramid
