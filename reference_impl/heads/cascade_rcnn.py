"""Cascade R-CNN: Cai and Vasconcelos, CVPR 2018."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad, relu, smooth_l1_loss

from reference_impl.ops.boxes import box_area, clip_boxes, decode_deltas, encode_deltas, scale_deltas
from reference_impl.ops.checked import checked
from reference_impl.ops.levels import check_levels
from reference_impl.ops.matching import best_overlaps
from reference_impl.ops.nms import nms_per_class
from reference_impl.ops.numerics import entropy_of_class, safe_divide, widen
from reference_impl.ops.roi_align import roi_align_by_size
from reference_impl.ops.select import taker

__all__ = ["CascadeRCNN", "cascade_detections", "cascade_loss", "cascade_scores", "sample_rois", "stage_targets"]


@checked
def sample_rois(
    proposals: Float[Tensor, "*batch n 4"],
    boxes: Float[Tensor, "*batch m 4"],
    valid: Bool[Tensor, "*batch m"] | None = None,
    noise: Float[Tensor, "*batch n"] | None = None,
    *,
    size: int = 512,
    positive_fraction: float = 0.25,
    threshold: float = 0.5,
) -> tuple[Float[Tensor, "*batch n 4"], Bool[Tensor, "*batch n"]]:
    r"""Draws the RoIs of the first stage: up to a fixed share of positives, and negatives for the rest. The later stages sample nothing.

    The ground truths join the RoIs of every stage, so here they count as positives that are already drawn. No gradient passes through.

    Args:
        proposals: absolute `(x1, y1, x2, y2)` in pixels; one without area is padding and is not drawn.
        boxes: ground truths, the same.
        valid: which of `boxes` are no padding; by default all.
        noise: uniform in [0, 1), the highest are drawn; a fresh draw by default.
        size: $B$, how many RoIs an image has, the ground truths among them.
        positive_fraction: $\phi$, share of positives at most, in [0, 1].
        threshold: $u_1$, IoU from which on a proposal is a positive.

    Returns:
        The proposals, those that are drawn first, and which these are. The first `size` are all that the cascade has to see. Coordinates
        may be negative.
    """
    proposals = widen(proposals.detach())
    noise = torch.rand_like(proposals[..., 0]) if noise is None else widen(noise)
    valid = torch.ones_like(boxes[..., 0], dtype=torch.bool) if valid is None else valid
    positive = best_overlaps(proposals, boxes, valid).iou >= threshold
    truths = valid.sum(-1, keepdim=True)
    draw = taker(noise)
    positives = draw(positive, int(size * positive_fraction) - truths, size)
    negatives = draw(~positive & (box_area(proposals) > 0), size - truths - positives.sum(-1, keepdim=True), size)
    chosen = positives | negatives
    order = chosen.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)
    return proposals.gather(-2, order[..., None].expand_as(proposals)), chosen.gather(-1, order)


@checked
def stage_targets(
    proposals: Float[Tensor, "*batch n 4"],
    boxes: Float[Tensor, "*batch m 4"],
    labels: Int[Tensor, "*batch m"],
    valid: Bool[Tensor, "*batch m"] | None = None,
    *,
    classes: int = 80,
    threshold: float = 0.5,
    center_std: float = 0.1,
    size_std: float = 0.2,
) -> tuple[Int[Tensor, "*batch n"], Float[Tensor, "*batch n 4"], Float[Tensor, "*batch n"]]:
    r"""What one stage has to learn: the boxes that come in are matched anew, with the threshold of that stage.

    $$ y = \begin{cases} c_j & \max_j \mathrm{IoU}(b, g_j) \ge u \\ C & \text{otherwise} \end{cases}, \qquad
    t = \mathrm{encode}(g_j, b) / \sigma $$

    A ground truth that no box overlaps enough stays without one. The boxes of later stages are better, so the regression targets are
    smaller and are divided by smaller $\sigma$. No gradient passes through.

    Args:
        proposals: $b$, the boxes that enter the stage, absolute `(x1, y1, x2, y2)` in pixels.
        boxes: ground truths $g$, the same.
        labels: their classes $c$, 0 to $C - 1$.
        valid: which of `boxes` are no padding; by default all.
        classes: number $C$ of foreground classes, and the label of background.
        threshold: $u$, IoU from which on a box is a positive.
        center_std: $\sigma$ of the two offsets of the centre, in sizes of the box.
        size_std: $\sigma$ of the logarithms of width and height.

    Returns:
        Label of each box, regression targets (0 for background, and may be negative), and IoU with the ground truth that it overlaps most.
    """
    proposals, boxes = widen(proposals.detach()), widen(boxes.detach())
    found = best_overlaps(proposals, boxes, valid)
    positive = found.iou >= threshold
    label = pad(labels, (0, 1)).gather(-1, found.truth)
    target = encode_deltas(pad(boxes, (0, 0, 0, 1)).gather(-2, found.truth[..., None].expand_as(proposals)), proposals)
    target = scale_deltas(target, center=1 / center_std, size=1 / size_std)
    return torch.where(positive, label, classes), target.where(positive[..., None], 0), found.iou


@checked
def cascade_loss(
    logits: Float[Tensor, "*batch n c"],
    deltas: Float[Tensor, "*batch n 4"],
    labels: Int[Tensor, "*batch n"],
    targets: Float[Tensor, "*batch n 4"],
    valid: Bool[Tensor, "*batch n"] | None = None,
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    r"""Loss of one stage: cross entropy for every box, smooth L1 for the positives.

    $$ L_{cls} = -\ln \frac{e^{x_y}}{\sum_c e^{x_c}}, \qquad L_{loc} = [y < C] \sum_{i=1}^4 L1_\text{smooth}(d_i - t_i) $$

    The authors take the mean of each over all boxes of the stage, positive or not, and weigh the stages by 1, 1/2 and 1/4.

    Args:
        logits: $x$, one for each of the foreground classes and, last, the background.
        deltas: $d$, the same for all classes.
        labels: $y$, as `stage_targets` gives them; the last class is background.
        targets: $t$, likewise.
        valid: the boxes that count; by default all.

    Returns:
        Loss of class and of place for each box.
    """
    logits, deltas, targets = widen(logits), widen(deltas), widen(targets)
    background = logits.shape[-1] - 1
    valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
    class_loss = entropy_of_class(logits.log_softmax(-1), labels.long().clamp(0, background))
    box_loss = smooth_l1_loss(deltas, targets, reduction="none").sum(-1)
    return class_loss.where(valid, 0), box_loss.where(valid & (labels < background), 0)


@checked
def cascade_scores(logits: Float[Tensor, "*batch g n c"]) -> Float[Tensor, "*batch n c"]:
    r"""Scores at inference: what the classifiers of all stages say of the same box, averaged.

    $$ p = \frac{1}{G} \sum_{k=1}^G \mathrm{softmax}(x_k) $$

    Args:
        logits: $x_k$, of each of $G$ classifiers for each box; the last class is background.

    Returns:
        A probability for each class and box. They sum to 1.
    """
    return widen(logits).softmax(-1).sum(-3) / max(logits.shape[-3], 1)


@checked
def cascade_detections(
    scores: Float[Tensor, "*batch n c"],
    boxes: Float[Tensor, "*batch n 4"],
    *,
    lowest_score: float = 0.001,
    threshold: float = 0.5,
    limit: int = 100,
) -> Bool[Tensor, "*batch n c"]:
    r"""Keeps the best boxes of each class that overlap no better one of that class.

    Args:
        scores: in [0, 1], for each class and box; the last class is background and is never detected.
        boxes: absolute `(x1, y1, x2, y2)` in pixels, the same for all classes.
        lowest_score: $p_{\min}$, a box with less is not detected.
        threshold: $N_t$, IoU above which a box discards a worse one of its class.
        limit: $D$, how many detections an image has at most, of all classes.

    Returns:
        Which box is a detection of which class.
    """
    return pad(nms_per_class(scores[..., :-1], boxes, lowest_score=lowest_score, threshold=threshold, limit=limit), (0, 1))


class CascadeRCNN(nn.Module):
    r"""Detectors in a row: each regresses the boxes that the one before has regressed, and demands a higher IoU of its positives.

    $$ b_{k+1} = \mathrm{decode}(\sigma_k\, d_k(b_k), b_k), \qquad u_k = u_1 + 0.1\,(k - 1), \qquad \sigma_k = \sigma_1 / k $$

    The boxes are handed on without gradient. Every stage pools its own features with RoIAlign and has its own two fully connected layers,
    a classifier, and a regressor that is the same for all classes. In training, the ground truths join the boxes of every stage.

    At inference all classifiers judge the boxes that enter the last stage (`detect`). The authors divide the loss of stage $k$ by $2^{k-1}$
    and multiply the learning rate of its layers by as much: so the stages learn at the same pace, and the first one moves the backbone
    most.

    Args:
        channels: of the features.
        classes: $C$, number of foreground classes; one more output is the background.
        width: $w$ of the fully connected layers.
        size: $s$, cells along each side of the pooled features.
        scale: $r$, size of the finest feature map relative to the image.
        finest_size: $s_1$, side of a square from which on boxes are pooled from the second level; from twice that on from the third, and so
            on.
        stages: $G$, how many detectors.
        threshold: $u_1$, IoU from which on a box is a positive of the first stage.
        step: $\Delta u$, by how much the threshold rises from stage to stage.
        center_std: $\sigma_1$ of the offsets of the centre, in sizes of the box.
        size_std: $\sigma_1$ of the logarithms of width and height.
        decay: $\lambda$, what the weight of the loss is multiplied by from stage to stage.
        same: $u_=$, IoU from which on a box counts as a copy of its ground truth, and does not go on to the next stage in training.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        width: int = 1024,
        size: int = 7,
        scale: float = 0.25,
        finest_size: float = 112.0,
        stages: int = 3,
        threshold: float = 0.5,
        step: float = 0.1,
        center_std: float = 0.1,
        size_std: float = 0.2,
        decay: float = 0.5,
        same: float = 0.95,
    ) -> None:
        super().__init__()
        self.channels, self.classes, self.decay, self.same = channels, classes, decay, same
        self.size, self.scale, self.finest_size = size, scale, finest_size
        self.thresholds = [threshold + step * k for k in range(stages)]
        self.stds = [(center_std / k, size_std / k) for k in range(1, stages + 1)]
        self.heads = nn.ModuleList(_Head(channels * size**2, classes + 1, width) for _ in range(stages))

    @checked
    def forward(
        self,
        levels: Sequence[Tensor],
        proposals: Float[Tensor, "b n 4"],
        boxes: Float[Tensor, "b m 4"] | None = None,
    ) -> tuple[Float[Tensor, "b g r c"], Float[Tensor, "b g r 4"], Float[Tensor, "b entering r 4"]]:
        """Runs all stages: feature maps and boxes -> what each stage says of the boxes that enter it, and these boxes.

        Args:
            levels: feature maps `[b channels h_i w_i]`, finest first, each half as fine as the one before. One alone will do.
            proposals: boxes of the first stage, absolute `(x1, y1, x2, y2)` in pixels.
            boxes: ground truths, to join the boxes of every stage in training, behind the others.

        Returns:
            Logits and deltas of each stage. The boxes that enter each stage, and, as one more stage, those that leave the last.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: channels or order of the levels, or the shape of a set of boxes does not fit.
        """
        check_levels("CascadeRCNN", levels, [self.channels] * len(levels))
        truths = proposals[:, :0] if boxes is None else boxes
        refined = widen(proposals)
        entering, found = [], []
        for head, (center_std, size_std) in zip(self.heads, self.stds, strict=True):
            entering.append(torch.cat((refined[:, : proposals.shape[1]], truths), 1))
            logits, deltas = head(self.pool(levels, entering[-1]))
            refined = decode_deltas(scale_deltas(deltas, center=center_std, size=size_std), entering[-1]).detach()
            found.append((logits, deltas))
        all_logits, all_deltas = (torch.stack(x, 1) for x in zip(*found, strict=True))
        return all_logits, all_deltas, torch.stack((*entering, refined), 1)

    def pool(self, levels: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Features of each box, `[b r channels size size]`, from the level that fits its size."""
        return roi_align_by_size(levels, boxes, scale=self.scale, finest_size=self.finest_size, size=self.size)

    def loss(
        self,
        found: tuple[Tensor, Tensor, Tensor],
        chosen: Bool[Tensor, "b n"],
        boxes: Float[Tensor, "b m 4"],
        labels: Int[Tensor, "b m"],
        valid: Bool[Tensor, "b m"] | None = None,
    ) -> tuple[Float[Tensor, "b g"], Float[Tensor, "b g"]]:
        """The mean losses of every stage, each weighted.

        A box that has come to lie on its ground truth counts in no later stage, since the ground truth itself is there.

        Args:
            found: what `forward` returns, given these `boxes`.
            chosen: which of the proposals count, as `sample_rois` gives them.
            boxes: ground truths.
            labels: their classes, from 0.
            valid: which of `boxes` are no padding; by default all.

        Returns:
            Loss of class and of place.
        """
        valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
        counted, losses = torch.cat((chosen, valid), 1), []
        for k, (logits, deltas, entering) in enumerate(zip(*(x.unbind(1) for x in found), strict=False)):
            center_std, size_std = self.stds[k]
            label, target, iou = stage_targets(
                entering,
                boxes,
                labels,
                valid,
                classes=self.classes,
                threshold=self.thresholds[k],
                center_std=center_std,
                size_std=size_std,
            )
            of_stage = cascade_loss(logits, deltas, label, target, counted)
            losses.append([self.decay**k * safe_divide(x.sum(1), counted.sum(1).to(x.dtype)) for x in of_stage])
            counted = torch.cat((counted[:, : chosen.shape[1]] & (iou[:, : chosen.shape[1]] < self.same), valid), 1)
        class_loss, box_loss = (torch.stack(x, 1) for x in zip(*losses, strict=True))
        return class_loss, box_loss

    def detect(
        self, levels: Sequence[Tensor], proposals: Float[Tensor, "b n 4"], image_size: Float[Tensor, "b 2"] | None = None
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n 4"], Bool[Tensor, "b n c"]]:
        """Detections of an image.

        Args:
            levels: feature maps, as in `forward`.
            proposals: boxes of the first stage.
            image_size: width and height; the boxes are cut off there. Without it they are not.

        Returns:
            Scores and boxes of the last stage, one for each proposal, and which box is a detection of which class.
        """
        logits, _, entering = self(levels, proposals)
        pooled = self.pool(levels, entering[:, -2])
        scores = cascade_scores(torch.stack([*(head(pooled)[0] for head in self.heads[:-1]), logits[:, -1]], 1))
        boxes = entering[:, -1]
        if image_size is not None:
            boxes = clip_boxes(boxes, image_size[:, None])
        return scores, boxes, cascade_detections(scores, boxes)


class _Head(nn.Module):
    """One stage: two fully connected layers, then classes and deltas."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, width), nn.Linear(width, width)
        self.classify = nn.Linear(width, outputs)
        self.regress = nn.Linear(width, 4)
        for layer in (self.first, self.second):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer, std in ((self.classify, 0.01), (self.regress, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        x = relu(self.second(relu(self.first(pooled.flatten(-3)))))
        return self.classify(x), self.regress(x)
