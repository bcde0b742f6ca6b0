"""Anchor refinement: Zhang, Wen, Bian, Lei and Li, CVPR 2018 (RefineDet)."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from reference_impl.ops.boxes import decode_deltas, scale_deltas
from reference_impl.ops.checked import checked
from reference_impl.ops.layout import per_anchor
from reference_impl.ops.levels import check_levels
from reference_impl.ops.numerics import widen

__all__ = ["AnchorRefinementModule", "TransferConnection", "anchor_refinement"]


@checked
def anchor_refinement(
    anchors: Float[Tensor, "*batch n 4"],
    offsets: Float[Tensor, "*batch n 4"],
    logits: Float[Tensor, "*batch n 2"],
    *,
    center_variance: float = 0.1,
    size_variance: float = 0.2,
) -> tuple[Float[Tensor, "*batch n 4"], Float[Tensor, "*batch n"]]:
    r"""Moves every anchor towards an object and says how likely one is there, before the detector proper classifies it.

    $$ b = \mathrm{decode}(v \odot t, a), \qquad o = \frac{e^{x_0}}{e^{x_0} + e^{x_1}} $$

    The detector then regresses from the refined anchors $b$ instead of the anchors $a$, matches them with the ground truth anew, and
    is not shown the negatives with $1 - o$ above 0.99: those go into `negative_anchor_filtering` as `p_s`. `ssd_targets` and `ssd_loss`
    train both steps, the first with a single class; in the second, `valid` leaves out the sure negatives. The authors let no gradient
    from the detector's losses into $b$ and $o$: detach them there.

    Args:
        anchors: $a$, absolute `(x1, y1, x2, y2)` in pixels.
        offsets: $t$, of centre and of the logarithm of the size, predicted in units of the variances.
        logits: $x_0$ of object, $x_1$ of background.
        center_variance: unit of the first two offsets, in widths and heights.
        size_variance: unit of the last two.

    Returns:
        The refined anchors, and the objectness of each, in [0, 1]. A coordinate may be negative.
    """
    logits = widen(logits)
    boxes = decode_deltas(scale_deltas(offsets, center=center_variance, size=size_variance), anchors)
    return boxes, (logits[..., 0] - logits[..., 1]).sigmoid()


class AnchorRefinementModule(nn.Module):
    """Offsets and logits for the anchors of one level, by one convolution each.

    Args:
        channels: of the features.
        anchors: number of anchors at a location.
    """

    def __init__(self, channels: int, anchors: int) -> None:
        super().__init__()
        self.anchors = anchors
        self.regress = nn.Conv2d(channels, anchors * 4, 3, padding=1)
        self.classify = nn.Conv2d(channels, anchors * 2, 3, padding=1)

    @checked
    def forward(self, features: Float[Tensor, "b channels h w"]) -> tuple[Float[Tensor, "b n 4"], Float[Tensor, "b n 2"]]:
        """Features -> offsets and logits of each anchor, row by row, as `anchor_refinement` takes them."""
        return per_anchor(self.regress(features), anchors=self.anchors), per_anchor(self.classify(features), anchors=self.anchors)


class TransferConnection(nn.Module):
    r"""Hands the features from the anchor refinement to the detector: each level gets what the coarser one has found.

    $$ y_l = \mathrm{relu}(\mathrm{conv}(\mathrm{relu}(z_l + \mathrm{up}(y_{l+1})))), \qquad
       z_l = \mathrm{conv}(\mathrm{relu}(\mathrm{conv}(x_l))) $$

    The convolutions are 3x3, $\mathrm{up}$ is a transposed one of 2x2 with stride 2, and the coarsest level has only $z_l$. The paper calls
    one level's part a transfer connection block; the detector predicts from the $y_l$, on the anchors that `anchor_refinement` moved.

    Args:
        channels: of the levels that the anchor refinement predicts from, finest first; in the authors' network 512, 512, 1024 and 512.
        width: $d$, channels of every level of the result.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 256) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.first = nn.ModuleList(nn.Conv2d(c, width, 3, padding=1) for c in channels)
        self.second = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.last = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.up = nn.ModuleList(nn.ConvTranspose2d(width, width, 2, stride=2) for _ in channels[1:])

    @checked
    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels `[b channels[i] h_i w_i]`, each twice as high and as wide as the next -> levels `[b width h_i w_i]`.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: the number of levels, their channels or their sizes do not fit.
        """
        check_levels("TransferConnection", levels, self.channels)
        for i, (fine, coarse) in enumerate(pairwise(levels)):
            size, expected = tuple(fine.shape[-2:]), tuple(2 * side for side in coarse.shape[-2:])
            if size != expected:
                raise ValueError(f"TransferConnection: `levels[{i}]` has size {size}; expected {expected}, twice that of the next level")
        found: list[Tensor] = []
        for i in reversed(range(len(levels))):
            z = self.second[i](relu(self.first[i](levels[i])))
            found.insert(0, relu(self.last[i](relu(z + self.up[i](found[0]) if found else z))))
        return found
