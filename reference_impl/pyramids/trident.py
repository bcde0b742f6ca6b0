"""Trident Networks: Li, Chen, Wang and Zhang, ICCV 2019."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, relu

from reference_impl.ops.boxes import box_area
from reference_impl.ops.checked import checked
from reference_impl.ops.levels import check_levels
from reference_impl.ops.nms import nms_per_class
from reference_impl.ops.numerics import widen

__all__ = ["Trident", "scale_aware_assignment", "scale_aware_boxes", "scale_aware_detections"]


class Trident(nn.Module):
    r"""Gives objects of each size a receptive field of their size, from layers equally deep and with the same weights.

    $$ P_j = T_{d_j}(C), \qquad d_j = 1, 2, 3 $$

    $T_d$ is a row of residual bottlenecks whose 3x3 convolutions have dilation $d$; all else, the weights and the normalisation included,
    is the same in all branches. The blocks take the place of all but the first of the backbone's fourth stage, and start from its weights.
    Proposal network and detector are shared by the branches, too. Each branch learns from the boxes that `scale_aware_boxes` gives it
    and `scale_aware_assignment` leaves it, and `scale_aware_detections` are made of the boxes in its range.

    Since the weights are shared, a faster detector needs no other ones: a `Trident` with `dilations=(2,)` takes the state of one with
    three, and is its middle branch. The authors train that version without ranges of size.

    Args:
        channels: of the one map that is read; its blocks' inner width is a quarter of them.
        dilations: one branch for each.
        blocks: $n$, how many blocks each branch has: 22 for ResNet-101, 5 for ResNet-50.
    """

    def __init__(self, channels: Sequence[int], dilations: Sequence[int] = (1, 2, 3), *, blocks: int = 22) -> None:
        super().__init__()
        self.channels, self.dilations = tuple(channels), tuple(dilations)
        if len(self.channels) != 1:
            raise ValueError(f"Trident: `channels` has {len(self.channels)} entries; expected one, for one feature map")
        self.blocks = nn.ModuleList(_Block(*self.channels) for _ in range(blocks))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """One map `[b channels h w]` in a list -> a map of that size for each dilation, for the smallest objects first.

        Raises:
            TypeError: the map is not a floating-point tensor.
            ValueError: there is another number of maps, or of channels.
        """
        check_levels("Trident", levels, self.channels)
        branches = []
        for dilation in self.dilations:
            (x,) = levels
            for block in self.blocks:
                x = block(x, dilation)
            branches.append(x)
        return branches


class _Block(nn.Module):
    """ResNet's bottleneck, with a dilation that is chosen in the call."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 4
        self.reduce = nn.Conv2d(channels, inner, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inner)
        self.dilated = nn.Conv2d(inner, inner, 3, bias=False)
        self.norm2 = nn.BatchNorm2d(inner)
        self.expand = nn.Conv2d(inner, channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(channels)
        for layer in (self.reduce, self.dilated, self.expand):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, dilation: int) -> Tensor:
        y = relu(self.norm1(self.reduce(x)))
        y = relu(self.norm2(conv2d(y, self.dilated.weight, padding=dilation, dilation=dilation)))
        return relu(x + self.norm3(self.expand(y)))


@checked
def scale_aware_boxes(boxes: Float[Tensor, "*#batch n 4"], ranges: Float[Tensor, "*#batch k 2"]) -> Bool[Tensor, "*#batch n k"]:
    r"""Says which boxes belong to each branch, by size; where ranges overlap, a box belongs to two branches.

    $$ l_j^2 \le w h \le u_j^2 $$

    In training these are the ground truths that a branch learns from and the proposals that it passes on; at inference, the detections of
    a branch that count.

    Args:
        boxes: absolute `(x1, y1, x2, y2)`, in pixels of the original image, before it is resized for the network; or in other pixels, if
            `ranges` are in the same.
        ranges: $l_j$ and $u_j$, the smallest and the largest size of each branch; the authors' are (0, 90), (30, 160) and (90, infinity).

    Returns:
        For each box and branch, whether it belongs there; both ends belong to the range.
    """
    area = box_area(boxes)[..., None]
    low, high = widen(ranges)[..., None, :, :].unbind(-1)
    return (area >= low * low) & (area <= high * high)


@checked
def scale_aware_assignment(
    assigned: Int[Tensor, "*batch n"], iou: Float[Tensor, "*batch n m"], in_range: Bool[Tensor, "*batch m"], *, threshold: float = 0.3
) -> Int[Tensor, "*batch n"]:
    r"""Takes out of a branch's training the anchors that overlap a ground truth of another branch, which are neither object nor background.

    $$ \max_{i \notin \text{range}} \mathrm{IoU}(a, \bar B_i) > t \;\Rightarrow\; a \text{ is ignored} $$

    It does so whatever the anchor has been assigned to; it is applied once for each branch, to the one assignment that all of them share,
    and before anchors are sampled.

    Args:
        assigned: index of each anchor's ground truth, -1 for background, -2 for ignored.
        iou: of each anchor with each ground truth.
        in_range: the ground truths that belong to this branch, one column of `scale_aware_boxes`.
        threshold: $t$, IoU above which an anchor is ignored.

    Returns:
        The assignment for this branch.
    """
    ignored = ((widen(iou) > threshold) & ~in_range[..., None, :]).any(-1)
    return torch.where(ignored, -2, assigned)


@checked
def scale_aware_detections(
    scores: Float[Tensor, "*batch k n c"],
    boxes: Float[Tensor, "*batch k n 4"],
    ranges: Float[Tensor, "*batch k 2"],
    *,
    lowest_score: float = 0.001,
    max_overlap: float = 0.5,
    limit: int = 100,
) -> Bool[Tensor, "*batch k n c"]:
    """Drops what a branch says of boxes outside its range, then keeps the best boxes of each class, whichever branch they come from.

    Args:
        scores: in [0, 1], for each class and box of each branch; the last class is background and is never detected.
        boxes: absolute `(x1, y1, x2, y2)`, the same for all classes, in the pixels that `ranges` are in.
        ranges: the smallest and the largest size of each branch, as in `scale_aware_boxes`.
        lowest_score: $s_{min}$, a box with less is not detected.
        max_overlap: $N_t$, IoU above which a box discards a worse one of its class.
        limit: $D$, how many detections an image has at most, of all classes and branches.

    Returns:
        Which box is a detection of which class.
    """
    own = scale_aware_boxes(boxes, ranges[..., None, :])
    scores = scores[..., :-1].masked_fill(~own, -torch.inf)
    kept = nms_per_class(scores.flatten(-3, -2), boxes.flatten(-3, -2), lowest_score=lowest_score, threshold=max_overlap, limit=limit)
    return pad(kept.view(scores.shape), (0, 1))
