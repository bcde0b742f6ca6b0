"""Bottom-up path augmentation: Liu, Qi, Qin, Shi and Jia, CVPR 2018 (PANet)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import relu

from reference_impl.ops.levels import check_levels, resize_like

__all__ = ["PathAggregation"]


class PathAggregation(nn.Module):
    r"""Leads what the fine levels know up to the coarse ones, by a path of a few layers behind the pyramid.

    $$ N_2 = P_2, \qquad N_{i+1} = \max\Bigl(0,\; \mathrm{conv}_{3\times 3}\bigl(P_{i+1} +
    \max(0,\; \mathrm{conv}_{3\times 3,\,s=2}(N_i))\bigr)\Bigr) $$

    Without it, edges and corners reach the coarsest level only through the whole backbone. The levels $N_i$ take the place of $P_i$, and
    all but the first are rectified; the method's other half, `heads.adaptive_feature_pooling`, pools each box from all of them.

    Args:
        levels: how many levels there are.
        width: $d$, channels of every level.
    """

    def __init__(self, levels: int, *, width: int = 256) -> None:
        super().__init__()
        self.channels = (width,) * levels
        self.down = nn.ModuleList(nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(levels - 1))
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(levels - 1))
        for layer in (*self.down, *self.smooth):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Pyramid levels `[b width h_i w_i]`, finest first -> as many of the same sizes.

        A map that stride 2 does not bring to the size of the next level is brought there by the maximum of each part.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("PathAggregation", levels, self.channels)
        found = [levels[0]]
        for x, down, smooth in zip(levels[1:], self.down, self.smooth, strict=True):
            found.append(relu(smooth(x + resize_like(relu(down(found[-1])), x))))
        return found
