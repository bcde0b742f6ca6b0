"""Scale-transfer module: Zhou, Ni, Geng, Hu and Xu, CVPR 2018 (STDN)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pixel_shuffle

from reference_impl.ops.levels import check_levels

__all__ = ["ScaleTransfer"]

# Of DenseNet-169's 1664 channels, which a dense block stacks from early to late layers, how many a level sees, and how many times larger or
# smaller it is: of the enlarged levels, of the one of the same size, and of the reduced ones.
CHANNELS = 1664
PARTS = {
    6: (((1664, 4), (1440, 2)), 1280, ((1120, 2), (960, 3), (800, 9))),
    7: (((1664, 4), (1600, 2)), 1440, ((1280, 2), (1120, 4), (960, 8), (800, 16))),
}


class ScaleTransfer(nn.Module):
    r"""Makes all levels from one map, without a parameter: larger ones by turning channels into cells, smaller ones by means.

    $$ P^{(r)}_{c,\,ry + i,\,rx + j} = F_{c r^2 + r i + j,\,y,\,x} $$

    is the scale-transfer layer: a level $P^{(r)}$ that is $r$ times as large as the map $F$ takes its cells from $r^2$ channels. A level
    that is $k$ times smaller has the means of $k \times k$ cells. The last map of a DenseNet stacks what all its layers made, from early to
    late. Each level sees the channels of the layers up to one of them, the largest level all of them: of DenseNet-169's 1664 channels they
    see 1664, 1440, 1280, 1120, 960 and 800, and of another map the same shares, rounded down to what the layer can turn into cells. The
    larger network, for images of 513 pixels, has seven levels, which see 1664, 1600, 1440, 1280, 1120, 960 and 800.

    Args:
        channels: of the one map that is read, in a list; 1664 in the paper's network.
        count: $L$, how many levels there are, 6 or 7.
    """

    def __init__(self, channels: Sequence[int], *, count: int = 6) -> None:
        super().__init__()
        self.channels = tuple(channels)
        if count not in PARTS:
            raise ValueError(f"ScaleTransfer: `count` is {count}; expected 6 or 7")
        self.enlarged, self.kept, self.reduced = PARTS[count]
        if len(self.channels) != 1:
            raise ValueError(f"ScaleTransfer: `channels` has {len(self.channels)} entries; expected one, for one feature map")
        least = self.enlarged[0][1] ** 2
        if self.channels[0] < least:
            raise ValueError(f"ScaleTransfer: `channels` is [{self.channels[0]}]; expected at least {least} to enlarge the map")

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """One map `[b channels h w]` in a list -> six levels, 4, 2, 1, 1/2, 1/3 and 1/9 times as large, rounded up, finest first.

        Or seven, 4, 2, 1, 1/2, 1/4, 1/8 and 1/16 times as large.

        Raises:
            TypeError: the map is not a floating-point tensor.
            ValueError: there is another number of maps, or of channels.
        """
        check_levels("ScaleTransfer", levels, self.channels)
        x = levels[0]
        enlarged = [pixel_shuffle(x[:, : self._part(part, r * r)], r) for part, r in self.enlarged]
        reduced = [avg_pool2d(x[:, : self._part(part)], k, ceil_mode=True) for part, k in self.reduced]
        return [*enlarged, x[:, : self._part(self.kept)], *reduced]

    def _part(self, of_densenet: int, multiple: int = 1) -> int:
        return self.channels[0] * of_densenet // (CHANNELS * multiple) * multiple
