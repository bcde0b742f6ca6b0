"""Multi-scale CNN (MS-CNN): Cai, Fan, Feris and Vasconcelos, ECCV 2016."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d, relu, smooth_l1_loss

from reference_impl.ops.boxes import box_around, box_center, box_size, decode_deltas
from reference_impl.ops.checked import checked
from reference_impl.ops.layout import per_anchor
from reference_impl.ops.levels import check_levels
from reference_impl.ops.matching import BACKGROUND, IGNORED, best_overlaps
from reference_impl.ops.numerics import entropy_of_class, safe_divide, widen
from reference_impl.ops.select import take

__all__ = [
    "MSCNN",
    "ContextDetector",
    "FeatureUpsampling",
    "assign_to_branches",
    "branch_loss",
    "context_boxes",
    "decode_proposals",
    "sample_negatives",
]

Sizes = Sequence[Sequence[Sequence[int]]]


class MSCNN(nn.Module):
    """The proposal sub-network: branches at several layers, each a filter as large as its anchor, for objects of about that size.

    A branch is one convolution. The finest level is also the middle of the backbone, and the gradients of its branches would disturb it; a
    layer of their own stands between as a buffer.

    Args:
        channels: of the levels, finest first; 512 each for the authors' conv4_3, conv5_3, conv6_1 and its pooling.
        kernels: `[height, width]` of the filters of each level, odd; `[[5, 5], [7, 7]]` but for the last level, `[[5, 5]]`, for cars.
        anchors: `[height, width]` in pixels of what each filter stands for, the same way; 60, 84, 120, ..., 480 for cars at 576 rows.
        strides: pixels between two locations of each level; 8, 16, 32 and 64.
        classes: number $C$ of foreground classes.
    """

    def __init__(self, channels: Sequence[int], kernels: Sizes, anchors: Sizes, strides: Sequence[int], classes: int) -> None:
        super().__init__()
        self.channels, self.strides, self.classes = tuple(channels), tuple(strides), classes
        self.anchors = [[tuple(size) for size in of_level] for of_level in anchors]
        self.buffer = nn.Conv2d(channels[0], channels[0], 3, padding=1)
        self.branches = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(c, classes + 5, (h, w), padding=(h // 2, w // 2)) for h, w in of_level)
            for c, of_level in zip(channels, kernels, strict=True)
        )
        nn.init.normal_(self.buffer.weight, std=0.01)
        nn.init.zeros_(self.buffer.bias)  # type: ignore[arg-type]
        for branch in self.branches.modules():
            if isinstance(branch, nn.Conv2d):
                nn.init.normal_(branch.weight, std=0.001)
                nn.init.zeros_(branch.bias)  # type: ignore[arg-type]

    def forward(
        self, levels: Sequence[Tensor]
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n 4"], Float[Tensor, "n 4"], Int[Tensor, "n"]]:
        """Levels `[b channels[i] h_i w_i]`, finest first -> what every branch predicts at every location of its level.

        Returns:
            Logits of $C + 1$ classes, background last; offsets, as `decode_proposals` takes them; the anchors, absolute
            `(x1, y1, x2, y2)` in pixels; and the number of the branch. Branch by branch, row by row.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("MSCNN", levels, self.channels)
        predicted, anchors = [], []
        branch: list[Tensor] = []
        for i, (x, branches, sizes) in enumerate(zip(levels, self.branches, self.anchors, strict=True)):
            x = relu(self.buffer(x)) if i == 0 else x
            for layer, size in zip(branches, sizes, strict=True):  # type: ignore[call-overload]
                predicted.append(per_anchor(layer(x), anchors=1))
                anchors.append(_anchors(x, size, self.strides[i]))
                branch.append(torch.full((anchors[-1].shape[0],), len(branch), device=x.device))
        rows = torch.cat(predicted, 1)
        return rows[..., :-4], rows[..., -4:], torch.cat(anchors), torch.cat(branch)


def _anchors(level: Tensor, size: Sequence[int], stride: int) -> Tensor:
    rows, columns = level.shape[-2:]
    place = (torch.arange(max(rows, columns), device=level.device, dtype=widen(level).dtype) + 0.5) * stride
    x, y = place[:columns].expand(rows, columns), place[:rows, None].expand(rows, columns)
    half_height, half_width = size[0] / 2, size[1] / 2
    return torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), -1).flatten(0, 1)


@checked
def assign_to_branches(
    anchors: Float[Tensor, "*#batch n 4"],
    boxes: Float[Tensor, "*#batch m 4"],
    valid: Bool[Tensor, "*#batch m"] | None = None,
    *,
    positive_iou: float = 0.5,
    negative_iou: float = 0.2,
) -> Int[Tensor, "*#batch n"]:
    r"""Gives each branch the objects of its own range of sizes: those that its anchors overlap enough.

    $$ y_i = \begin{cases} \arg\max_j \mathrm{IoU}(a_i, g_j), & \max_j \mathrm{IoU}(a_i, g_j) > \theta_+ \\
    \text{background}, & \max_j \mathrm{IoU}(a_i, g_j) < \theta_- \end{cases} $$

    What lies between is ignored. A ground truth that has no anchor gets the one that overlaps it most, of any branch, unless that anchor
    has an IoU below $\theta_-$ or belongs to another ground truth already.

    Args:
        anchors: $a_i$ of all branches, absolute `(x1, y1, x2, y2)` in pixels, one set for all images or one for each.
        boxes: ground truths $g_j$, the same.
        valid: which of `boxes` are no padding; by default all.
        positive_iou: $\theta_+$, an anchor above this IoU stands for an object.
        negative_iou: $\theta_-$, an anchor below this IoU is background.

    Returns:
        For each anchor the index of a ground truth, -1 for background, -2 if it is ignored; it may be negative.

    Raises:
        ValueError: the shapes do not fit together.
    """
    found = best_overlaps(anchors, boxes, valid)
    n, m = found.iou.shape[-1], found.truth_iou.shape[-1]
    positive = found.iou > positive_iou
    labels = found.truth.masked_fill(~positive, IGNORED).masked_fill(found.iou < negative_iou, BACKGROUND)
    anchors_of = labels.new_zeros(*labels.shape[:-1], m + 1).scatter_add(-1, found.truth, positive.long())
    missed = (anchors_of[..., :m] == 0) & (found.truth_iou > 0) & (found.truth_iou >= negative_iou)
    index = torch.arange(m, device=labels.device).expand_as(missed)
    first = labels.new_full((*labels.shape[:-1], n + 1), m)
    first = first.scatter_reduce(-1, found.anchor.masked_fill(~missed, n), index, "amin")[..., :n]
    return torch.where((first < m) & (labels < 0), first, labels)


@checked
def sample_negatives(
    logits: Float[Tensor, "*batch n c"],
    labels: Int[Tensor, "*batch n"],
    positive: Bool[Tensor, "*batch n"],
    negative: Bool[Tensor, "*batch n"],
    noise: Float[Tensor, "*batch n"] | None = None,
    *,
    ratio: float = 2.0,
    hard_fraction: float = 1.0,
    minimum: int = 4,
) -> Float[Tensor, "*batch n"]:
    r"""Keeps a few of the negatives of a branch for each of its positives: drawn at random, the hardest, or some of both.

    $$ |\mathcal{N}'_c| = \max(\lfloor \phi \gamma |\mathcal{P}_c| \rfloor, k) \text{ of highest } x_c \text{ for each class } c, \qquad
    |\mathcal{N}'_r| = \max(\lfloor (1 - \phi) \gamma |\mathcal{P}| \rfloor, k C) \text{ at random} $$

    A share $\phi$ of 0 is random sampling, of 1 is bootstrapping, of 1/2 the mixture of the two; the authors begin with the first and go on
    with the second. A negative may be among the hardest of several classes; the random ones come from the rest. No gradient passes through.

    Args:
        logits: $x_c$ of the $C$ foreground classes, of the anchors of one branch.
        labels: class of each positive, 0 to $C - 1$.
        positive: $\mathcal{P}$, the anchors that stand for an object.
        negative: the anchors to choose from.
        noise: uniform in [0, 1), the highest are drawn; a fresh draw by default.
        ratio: $\gamma$, negatives for each positive.
        hard_fraction: $\phi$, in [0, 1].
        minimum: $k$, negatives for each class even without positives.

    Returns:
        1 for each chosen negative and 0 for every other anchor.

    Raises:
        ValueError: the shapes do not fit together.
    """
    logits = widen(logits.detach())
    noise = torch.rand_like(logits[..., 0]) if noise is None else widen(noise.detach())
    classes = torch.arange(logits.shape[-1], device=labels.device)
    positives = ((labels[..., None, :] == classes[:, None]) & positive[..., None, :]).sum(-1, keepdim=True)
    chosen = torch.zeros_like(negative)
    if hard_fraction > 0:
        hardest = (positives * ratio * hard_fraction).long().clamp(min=minimum)
        chosen = take(logits.mT, negative[..., None, :].expand_as(logits.mT), hardest).any(-2)
    if hard_fraction < 1:
        drawn = (positives.sum(-2) * ratio * (1 - hard_fraction)).long().clamp(min=minimum * logits.shape[-1])
        chosen = chosen | take(noise, negative & ~chosen, drawn)
    return chosen.to(logits.dtype)


@checked
def branch_loss(
    logits: Float[Tensor, "*batch n c"],
    offsets: Float[Tensor, "*batch n 4"],
    target: Float[Tensor, "*batch n 4"],
    labels: Int[Tensor, "*batch n"],
    positive: Bool[Tensor, "*batch n"],
    negative: Bool[Tensor, "*batch n"],
    *,
    ratio: float = 2.0,
    box_weight: float = 1.0,
    branch_weight: float = 1.0,
    center_range: float = 0.5,
    size_range: float = 2.0,
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    r"""Weighs the positives and the negatives of a branch as if there were $\gamma$ negatives for each positive, however many there are.

    $$ L_m = \alpha_m \left(\frac{1}{1 + \gamma} \frac{1}{|\mathcal{P}|} \sum_{\mathcal{P}} -\ln p_{y} + \frac{\gamma}{1 + \gamma}
    \frac{1}{|\mathcal{N}|} \sum_{\mathcal{N}} -\ln p_{C} + \frac{\lambda}{4 |\mathcal{P}|} \sum_{\mathcal{P}}
    \mathrm{smooth}_{L1}(\bar t - \hat t)\right) $$

    The whole loss is the sum over the branches $m$ plus that of the detection sub-network, with $\alpha_m = 0.9$ for the finest level.
    Offsets $t$ count as $\bar t$, limited as in `decode_proposals`. Outside their range the gradient is not the derivative, which is 0
    there, but that on $\bar t$, so that it pulls them back.

    Args:
        logits: of $C + 1$ classes, background last, of the anchors of one branch.
        offsets: $t$, as the branch predicts them.
        target: $\hat t$, what they should be; that of others than positives is not used.
        labels: class $y$ of each positive, 0 to $C - 1$.
        positive: $\mathcal{P}$, the anchors that stand for an object.
        negative: the negatives $\mathcal{N}$ that were sampled; without positives they alone are averaged.
        ratio: $\gamma$, what all negatives weigh against all positives.
        box_weight: $\lambda$, weight of the regression; 0.05 in the authors' first training.
        branch_weight: $\alpha_m$, weight of this branch.
        center_range: $r_{xy}$, largest size of the first two offsets.
        size_range: $r_{wh}$, factor by which a side may grow or shrink.

    Returns:
        Classification and regression loss of each anchor, whose sums are those of the branch.

    Raises:
        ValueError: the shapes do not fit together.
    """
    logits, offsets = widen(logits), widen(offsets)
    labels = labels.where(positive, logits.shape[-1] - 1).clamp(max=logits.shape[-1] - 1)
    positives, negatives = (x.sum(-1, keepdim=True).to(logits.dtype) for x in (positive, negative))
    share = 1 - (positives > 0).to(logits.dtype) / (1 + ratio)
    weight = torch.where(positive, safe_divide(1 - share, positives), torch.where(negative, safe_divide(share, negatives), 0))
    by_class = entropy_of_class(logits.log_softmax(-1), labels.long())
    limited = offsets + (_limited(offsets, center_range, size_range) - offsets).detach()
    by_box = smooth_l1_loss(limited, widen(target).to(offsets.dtype), reduction="none").mean(-1)
    by_box = torch.where(positive, safe_divide(by_box, positives), 0)
    return branch_weight * weight * by_class, branch_weight * box_weight * by_box


@checked
def decode_proposals(
    logits: Float[Tensor, "*#batch n c"],
    offsets: Float[Tensor, "*#batch n 4"],
    anchors: Float[Tensor, "*#batch n 4"],
    *,
    center_range: float = 0.5,
    size_range: float = 2.0,
) -> tuple[Float[Tensor, "*#batch n 4"], Float[Tensor, "*#batch n"]]:
    r"""Turns predictions of all branches into proposals, none of which leaves the range of sizes of its branch.

    $$ \bar t = (\mathrm{clip}(t_{x, y}, \pm r_{xy}), \mathrm{clip}(t_{w, h}, \pm \ln r_{wh})), \qquad b = \mathrm{decode}(\bar t, a),
    \qquad s = \max_{c < C} x_c - x_C $$

    The authors then take those with a score above -8, suppress boxes with an IoU above 0.65 and keep the 3000 best of an image.

    Args:
        logits: $x$ of $C + 1$ classes, background last.
        offsets: $t$, of the centre in widths and heights of the anchor, and of the logarithm of the size.
        anchors: $a$, absolute `(x1, y1, x2, y2)` in pixels.
        center_range: $r_{xy}$, largest size of the first two offsets.
        size_range: $r_{wh}$, factor by which a side may grow or shrink.

    Returns:
        One box for each anchor, and its score $s$; a coordinate or score may be negative.

    Raises:
        ValueError: the shapes do not fit together.
    """
    logits, offsets = widen(logits), widen(offsets)
    boxes = decode_deltas(_limited(offsets, center_range, size_range), anchors)
    return boxes, logits[..., :-1].amax(-1) - logits[..., -1]


def _limited(offsets: Tensor, center_range: float, size_range: float) -> Tensor:
    largest = math.log(size_range)
    return torch.cat((offsets[..., :2].clamp(-center_range, center_range), offsets[..., 2:].clamp(-largest, largest)), -1)


class FeatureUpsampling(nn.Module):
    """Doubles the resolution of the features that the detection sub-network pools from, in place of a larger input.

    A deconvolution of 4 by 4 with stride 2, channel by channel, whose weights stay those of bilinear interpolation. Beyond the border it
    sees zeros.
    """

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        side = torch.tensor([0.25, 0.75, 0.75, 0.25])
        self.register_buffer("kernel", side[:, None] * side, persistent=False)

    @checked
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Features -> twice as many rows and columns."""
        channels = features.shape[1]
        return conv_transpose2d(features, self.kernel.expand(channels, 1, 4, 4), stride=2, padding=1, groups=channels)


@checked
def context_boxes(boxes: Float[Tensor, "*batch n 4"], *, factor: float = 1.5) -> Float[Tensor, "*batch n 4"]:
    r"""Grows boxes around their centres, so that the pooled features also show what surrounds a small object.

    $$ (x, y, w, h) \mapsto (x, y, f w, f h) $$

    Args:
        boxes: proposals, absolute `(x1, y1, x2, y2)` in pixels.
        factor: $f$, of width and height.

    Returns:
        One box for each. A coordinate may be negative or beyond the image.
    """
    boxes = widen(boxes)
    return box_around(box_center(boxes), factor * box_size(boxes))


class ContextDetector(nn.Module):
    """The detection sub-network: an object and its surroundings, pooled from `FeatureUpsampling`'s map, are classified together.

    A convolution without padding halves the channels of the two; a single layer leads to classes and boxes.

    Args:
        channels: of the pooled features.
        classes: number $C$ of foreground classes.
        width: $d$, channels after the convolution.
        hidden: $d_h$, units of the layer.
        size: $K$, rows and columns of the pooled features.
        dropout: $q$, share of these units that training leaves out.
    """

    def __init__(self, channels: int, classes: int, *, width: int = 512, hidden: int = 4096, size: int = 7, dropout: float = 0.5) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(2 * channels, width, 3)
        self.layer = nn.Linear(width * (size - 2) ** 2, hidden)
        self.dropout = nn.Dropout(dropout)
        self.classify = nn.Linear(hidden, classes + 1)
        self.regress = nn.Linear(hidden, 4 * (classes + 1))

    @checked
    def forward(
        self, pooled: Float[Tensor, "b n c k k"], context: Float[Tensor, "b n c k k"]
    ) -> tuple[Float[Tensor, "b n classes"], Float[Tensor, "b n classes 4"]]:
        """Features of the boxes and of their `context_boxes` -> logits, background last, and offsets for each class."""
        x = relu(self.reduce(torch.cat((pooled, context), 2).flatten(0, 1)))
        x = self.dropout(relu(self.layer(x.flatten(1)))).unflatten(0, pooled.shape[:2])
        return self.classify(x), self.regress(x).unflatten(-1, (-1, 4))
