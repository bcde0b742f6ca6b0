"""Multi-Region CNN with iterative localisation and box voting: Gidaris and Komodakis, ICCV 2015."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import dropout, relu

from reference_impl.ops.boxes import box_around, box_center, box_iou, box_size, clip_boxes, decode_deltas
from reference_impl.ops.checked import checked
from reference_impl.ops.nms import nms
from reference_impl.ops.numerics import nonnegative, widen
from reference_impl.ops.roi_align import roi_align

__all__ = ["MultiRegionCNN", "box_voting", "multi_region_loss", "multi_regions"]

# Left, top, right and bottom in sizes of the box, and the part of the region, around its centre, that is left out.
REGIONS = (
    (0.0, 0.0, 1.0, 1.0, 0.0),
    (0.0, 0.0, 0.5, 1.0, 0.0),
    (0.5, 0.0, 1.0, 1.0, 0.0),
    (0.0, 0.0, 1.0, 0.5, 0.0),
    (0.0, 0.5, 1.0, 1.0, 0.0),
    (0.25, 0.25, 0.75, 0.75, 0.0),
    (0.1, 0.1, 0.9, 0.9, 0.3 / 0.8),
    (0.0, 0.0, 1.0, 1.0, 0.5 / 1.0),
    (-0.25, -0.25, 1.25, 1.25, 0.8 / 1.5),
    (-0.4, -0.4, 1.4, 1.4, 1.0 / 1.8),
)

# What the box is enlarged by for the segmentation-aware features.
SEMANTIC_CONTEXT = 1.5


@checked
def multi_regions(boxes: Float[Tensor, "*batch n 4"]) -> tuple[Float[Tensor, "*batch n 10 4"], Float[Tensor, "*batch n 10 4"]]:
    r"""Ten views of a box: each sees another part of the object or of what is around it, so that a shifted box looks different.

    The box; its left, right, upper and lower half; two parts of its middle, of 0.5 and from 0.3 to 0.8 of its size; two frames around its
    border, from 0.5 to 1 and from 0.8 to 1.5; the context, from 1 to 1.8.

    Args:
        boxes: absolute `(x1, y1, x2, y2)` in pixels.

    Returns:
        The regions, and the rectangle in the middle of each that does not belong to it, without area where all of it does. Coordinates may
        be negative.
    """
    boxes = widen(boxes)
    (x, y), (width, height) = boxes[..., :2].unbind(-1), box_size(boxes).unbind(-1)
    outer, inner = [], []
    for left, top, right, bottom, hole in REGIONS:
        region = torch.stack((x + left * width, y + top * height, x + right * width, y + bottom * height), -1)
        outer.append(region)
        inner.append(box_around(box_center(region), hole * box_size(region)))
    return torch.stack(outer, -2), torch.stack(inner, -2)


@checked
def multi_region_loss(
    logits: Float[Tensor, "*batch n c"],
    deltas: Float[Tensor, "*batch n c 4"],
    labels: Int[Tensor, "*batch n"],
    targets: Float[Tensor, "*batch n 4"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    positive_weight: float = 2.0,
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    r"""A support vector machine for each class, and squared errors of the deltas of a box's own class.

    $$ L_{cls} = \sum_c \begin{cases} w_+ \max(0, 1 - x_c) & c = y \\ \max(0, 1 + x_c) & c \ne y \end{cases}, \qquad
    L_{loc} = [y < C]\, \frac{1}{2} \sum_{i=1}^4 (d_{y,i} - t_i)^2 $$

    The authors divide the sum of $L_{loc}$ by the number of boxes.

    Args:
        logits: $x$, one for each of $C$ foreground classes.
        deltas: $d$, of each class.
        labels: $y$, 0 to $C - 1$, or $C$ for background.
        targets: $t$, what `ops.boxes.encode_deltas` says of the ground truth relative to the box.
        valid: the boxes that count; by default all.
        positive_weight: $w_+$, weight of a box in the loss of its own class.

    Returns:
        Loss of class and of place for each box.
    """
    logits, deltas, targets = widen(logits), widen(deltas), widen(targets)
    classes = logits.shape[-1]
    valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
    own = labels[..., None] == torch.arange(classes, device=labels.device)
    margin = nonnegative(torch.where(own, 1 - logits, 1 + logits))
    class_loss = torch.where(own, positive_weight * margin, margin).sum(-1)
    index = labels.clamp(0, classes - 1)[..., None, None].expand(*labels.shape, 1, 4)
    box_loss = (deltas.gather(-2, index).squeeze(-2) - targets).square().sum(-1) / 2
    return class_loss.where(valid, 0), box_loss.where(valid & (labels < classes), 0)


@checked
def box_voting(
    boxes: Float[Tensor, "*batch n 4"],
    proposals: Float[Tensor, "*batch m 4"],
    scores: Float[Tensor, "*batch m"],
    valid: Bool[Tensor, "*batch m"] | None = None,
    *,
    threshold: float = 0.5,
    added: float = 1.5,
) -> Float[Tensor, "*batch n 4"]:
    r"""Moves each box that survived suppression to the weighted mean of its neighbours, suppressed or not.

    $$ B'_i = \frac{\sum_{j \in N(i)} w_j B_j}{\sum_{j \in N(i)} w_j}, \qquad w_j = \max(0, s_j + a), \qquad
    N(i) = \{j : \mathrm{IoU}(B_i, B_j) \ge u_v\} $$

    No gradient passes through.

    Args:
        boxes: $B_i$, the detections of one class, absolute `(x1, y1, x2, y2)` in pixels.
        proposals: $B_j$, all candidates of that class, the detections among them.
        scores: $s_j$, of the candidates.
        valid: which of the candidates vote; by default all.
        threshold: $u_v$, IoU from which on a candidate is a neighbour.
        added: $a$, what is added to a score, to make a weight of it.

    Returns:
        The boxes, moved; a box without neighbours stays. Coordinates may be negative.
    """
    boxes, proposals, scores = widen(boxes.detach()), widen(proposals.detach()), widen(scores.detach())
    near = box_iou(boxes[..., :, None, :], proposals[..., None, :, :]) >= threshold
    near = near if valid is None else near & valid[..., None, :]
    weight = near * ((scores + added).clamp(min=0) + torch.finfo(scores.dtype).eps)[..., None, :]
    share = weight / weight.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
    return torch.where(near.any(-1)[..., None], (share[..., None] * proposals[..., None, :, :]).sum(-2), boxes)


class MultiRegionCNN(nn.Module):
    r"""Scores a box by ten regions and regresses it by an eleventh, and does so again with the boxes that result.

    Every region has two fully connected layers of its own; all their outputs together go into one linear classifier. The regressor sees the
    box made 1.3 times as large. What lies in the hole of a region is set to 0.

    The classifier may see one region more, in a map of its own: the box made 1.5 times as large, through one fully connected layer, in the
    features of a network that segments.

    `localise` is the detector. It scores the proposals, keeps the best of each class that are no duplicates, and regresses them; then it
    scores and regresses the result, by the same network. The boxes of all rounds together, each with the score that it had before it was
    regressed, go into suppression, and what survives is moved by the vote of all (`box_voting`).

    Args:
        channels: of the features.
        classes: number of foreground classes.
        width: $h$ of the fully connected layers.
        size: $m$, cells along each side of a region.
        scale: $r$, size of the features relative to the image.
        context: $\gamma$, by which factor the box is enlarged for the regressor.
        rate: $\rho$, share of the outputs of a fully connected layer that are dropped in training.
        iterations: $T$, rounds of scoring and regressing.
        lowest: $s_0$, boxes of a lower score are dropped.
        duplicate: $u_1$, IoU above which a proposal is dropped for a better one, in the first round.
        threshold: $u_T$, IoU above which a box is suppressed by a better one, at the end.
        per_class: $k$, boxes of a class that go through the rounds, and detections of a class, at most.
        semantic_channels: $c_s$ of the segmentation-aware features; 0 without them.
        semantic_width: $h_s$ of the fully connected layer for these.
        semantic_size: $m_s$, cells along each side of their region.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        width: int = 4096,
        size: int = 7,
        scale: float = 0.0625,
        context: float = 1.3,
        rate: float = 0.5,
        iterations: int = 2,
        lowest: float = -3.0,
        duplicate: float = 0.95,
        threshold: float = 0.3,
        per_class: int = 100,
        semantic_channels: int = 0,
        semantic_width: int = 2048,
        semantic_size: int = 9,
    ) -> None:
        super().__init__()
        self.classes, self.size, self.scale, self.context, self.rate = classes, size, scale, context, rate
        self.iterations, self.lowest, self.duplicate, self.threshold, self.per_class = iterations, lowest, duplicate, threshold, per_class
        inputs = channels * size**2
        self.first = nn.ModuleList(nn.Linear(inputs, width) for _ in range(len(REGIONS) + 1))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(len(REGIONS) + 1))
        self.semantic_size, seen = semantic_size, len(REGIONS) * width + bool(semantic_channels) * semantic_width
        self.semantic = nn.Linear(semantic_channels * semantic_size**2, semantic_width) if semantic_channels else None
        self.classify = nn.Linear(seen, classes)
        self.regress = nn.Linear(width, 4 * classes)
        for layer in (self.classify, self.regress):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    @checked
    def forward(
        self,
        features: Float[Tensor, "b channels h w"],
        boxes: Float[Tensor, "b n 4"],
        semantic: Float[Tensor, "b semantic h2 w2"] | None = None,
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n c 4"]]:
        """Features and boxes, absolute `(x1, y1, x2, y2)` in pixels -> logits of each box, and its deltas for each class.

        The segmentation-aware features `semantic` are as fine as the others.

        Raises:
            ValueError: they are missing, or not expected.
        """
        if (semantic is None) != (self.semantic is None):
            raise ValueError(f"MultiRegionCNN: `semantic` is {'missing' if semantic is None else 'not expected'}")
        outer, _ = multi_regions(boxes)
        pooled = self.pool(features, outer.flatten(1, 2))
        shown = pooled.view(*outer.shape[:3], *pooled.shape[2:])
        at = ((torch.arange(self.size, device=boxes.device) + 0.5) / self.size - 0.5).abs()
        from_center = torch.maximum(at[:, None], at)
        views = [self.adapt(i, shown[:, :, i] * (2 * from_center >= hole)) for i, (*_, hole) in enumerate(REGIONS)]
        if semantic is not None and self.semantic is not None:
            seen = roi_align(semantic, _enlarged(boxes, SEMANTIC_CONTEXT), scale=self.scale, size=self.semantic_size)
            views.append(dropout(relu(self.semantic(seen.flatten(-3))), self.rate, self.training))
        around = self.pool(features, _enlarged(boxes, self.context))
        deltas = self.regress(self.adapt(len(REGIONS), around))
        return self.classify(torch.cat(views, -1)), deltas.view(*boxes.shape[:2], self.classes, 4)

    def pool(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Features of each box, `[b r channels size size]`."""
        return roi_align(features, boxes, scale=self.scale, size=self.size)

    def adapt(self, region: int, pooled: Tensor) -> Tensor:
        """The fully connected layers of one region."""
        hidden = dropout(relu(self.first[region](pooled.flatten(-3))), self.rate, self.training)
        return dropout(relu(self.second[region](hidden)), self.rate, self.training)

    @torch.no_grad()
    def localise(
        self,
        features: Float[Tensor, "b channels h w"],
        proposals: Float[Tensor, "b n 4"],
        valid: Bool[Tensor, "b n"] | None = None,
        image_size: Float[Tensor, "b 2"] | None = None,
        semantic: Float[Tensor, "b semantic h2 w2"] | None = None,
    ) -> tuple[Float[Tensor, "b c k 4"], Float[Tensor, "b c k"], Bool[Tensor, "b c k"]]:
        """Detections of an image.

        Args:
            features: of one level.
            proposals: boxes to start from.
            valid: which of them are no padding; by default all.
            image_size: width and height; regressed boxes are cut off there. Without it they are not.
            semantic: the segmentation-aware features, as for `forward`.

        Returns:
            Boxes of each class, round by round, moved by the vote; their scores; which of them are detections.
        """
        logits, deltas = self(features, proposals, semantic)
        scores, deltas = logits.movedim(2, 1), deltas.movedim(2, 1)
        boxes = widen(proposals)[:, None].expand(-1, self.classes, -1, -1)
        candidate = scores > self.lowest if valid is None else (scores > self.lowest) & valid[:, None]
        kept = nms(boxes, scores, candidate, limit=self.per_class, threshold=self.duplicate)
        index = scores.masked_fill(~kept, -torch.inf).topk(min(self.per_class, scores.shape[-1])).indices
        kept, scores = kept.gather(-1, index), scores.gather(-1, index)
        boxes, deltas = (x.gather(-2, index[..., None].expand(*index.shape, 4)) for x in (boxes, deltas))

        rounds = []
        for i in range(self.iterations):
            if i > 0:
                found = self(features, boxes.flatten(1, 2), semantic)
                scores, deltas = (self._own(x, boxes.shape[2]) for x in found)
            boxes = decode_deltas(deltas, boxes)
            if image_size is not None:
                boxes = clip_boxes(boxes, image_size[:, None, None])
            rounds.append((boxes, scores, kept & (scores > self.lowest)))
        boxes, scores, candidate = (torch.cat(x, 2) for x in zip(*rounds, strict=True))
        detected = nms(boxes, scores, candidate, limit=self.per_class, threshold=self.threshold)
        return box_voting(boxes, boxes, scores, candidate), scores, detected

    def _own(self, x: Tensor, boxes: int) -> Tensor:
        """What is said of the boxes of each class for that class: `[b c*k c ...] -> [b c k ...]`."""
        apart = x.reshape(x.shape[0], self.classes, boxes, self.classes, *x.shape[3:])
        return apart.diagonal(dim1=1, dim2=3).movedim(-1, 1)


def _enlarged(boxes: Tensor, factor: float) -> Tensor:
    return box_around(box_center(boxes), factor * box_size(boxes))
