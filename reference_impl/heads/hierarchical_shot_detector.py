"""Hierarchical Shot Detector (HSD): Cao, Pang, Han and Li, ICCV 2019."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, smooth_l1_loss

from reference_impl.ops.boxes import decode_deltas, encode_deltas, scale_deltas
from reference_impl.ops.checked import checked
from reference_impl.ops.deformable import deformable_conv
from reference_impl.ops.layout import per_anchor
from reference_impl.ops.matching import best_overlaps
from reference_impl.ops.nms import nms_per_class
from reference_impl.ops.numerics import entropy_of_class, widen
from reference_impl.ops.select import take

__all__ = ["HSDContext", "HierarchicalShotDetector", "hsd_boxes", "hsd_detections", "hsd_loss", "hsd_targets"]


@checked
def hsd_boxes(
    anchors: Float[Tensor, "*batch n 4"],
    deltas: Float[Tensor, "*batch n 4"],
    refined_deltas: Float[Tensor, "*batch n 4"],
    *,
    center_std: float = 0.1,
    size_std: float = 0.2,
) -> tuple[Float[Tensor, "*batch n 4"], Float[Tensor, "*batch n 4"]]:
    r"""The boxes that each of the two modules classifies, after it has regressed them.

    $$ b_1 = \mathrm{decode}(\sigma\, d_1, a), \qquad b_2 = \mathrm{decode}\left(\frac{\sigma}{2}\, d_2, b_1\right) $$

    No gradient passes through: the losses are of the deltas.

    Args:
        anchors: $a$, absolute `(x1, y1, x2, y2)` in pixels.
        deltas: $d_1$, of the first module.
        refined_deltas: $d_2$, of the second.
        center_std: $\sigma$ of the two offsets of the centre, in sizes of the box.
        size_std: $\sigma$ of the logarithms of width and height.

    Returns:
        $b_1$ and $b_2$. Coordinates may be negative.
    """
    first = decode_deltas(scale_deltas(deltas.detach(), center=center_std, size=size_std), anchors.detach())
    refinement = scale_deltas(refined_deltas.detach(), center=center_std / 2, size=size_std / 2)
    return first, decode_deltas(refinement, first)


@checked
def hsd_targets(
    anchors: Float[Tensor, "*batch n 4"],
    proposals: Float[Tensor, "*batch n 4"],
    boxes: Float[Tensor, "*batch m 4"],
    labels: Int[Tensor, "*batch m"],
    valid: Bool[Tensor, "*batch m"] | None = None,
    *,
    classes: int = 80,
    threshold: float = 0.5,
    class_threshold: float = 0.6,
    center_std: float = 0.1,
    size_std: float = 0.2,
) -> tuple[Int[Tensor, "*batch n"], Float[Tensor, "*batch n 4"], Bool[Tensor, "*batch n"]]:
    r"""What one module has to learn: deltas from the boxes that come in, and classes of the boxes that it has made of them.

    $$ t = \mathrm{encode}(g, a) / \sigma \ \text{ if } \mathrm{IoU}(a, g) \ge 0.5, \qquad y = c_g \ \text{ if }
    \mathrm{IoU}(b, g) \ge 0.6 $$

    A trained regressor turns some negatives into positives and some positives into negatives: the classifier learns what the box that it
    judges is, and not what the anchor was. The best box of a ground truth is always a positive, of both kinds. The second module starts
    from the boxes of the first, with a threshold of 0.7 for the classes and half the $\sigma$. No gradient passes through.

    Args:
        anchors: $a$, what the module regresses, absolute `(x1, y1, x2, y2)` in pixels.
        proposals: $b$, what it has made of them, one for each.
        boxes: ground truths $g$.
        labels: their classes, 0 to $C - 1$. The first module tells objects from background: zeros, with `classes=1`.
        valid: which of `boxes` are no padding; by default all.
        classes: number $C$ of foreground classes, and the label of background.
        threshold: $u_r$, IoU from which on a box is regressed.
        class_threshold: $u_c$, IoU from which on a regressed box is a positive of the classifier.
        center_std: $\sigma$ of the two offsets of the centre, in sizes of the box.
        size_std: $\sigma$ of the logarithms of width and height.

    Returns:
        Label of each box, its regression targets (0 where there is none, and may be negative), and whether it is regressed.
    """
    anchors, boxes = widen(anchors.detach()), widen(boxes.detach())
    label = pad(labels, (0, 1), value=classes).gather(-1, _assign(proposals.detach(), boxes, valid, class_threshold))
    truth = _assign(anchors, boxes, valid, threshold)
    matched = truth < boxes.shape[-2]
    target = encode_deltas(pad(boxes, (0, 0, 0, 1)).gather(-2, truth[..., None].expand_as(anchors)), anchors)
    return label, scale_deltas(target, center=1 / center_std, size=1 / size_std).where(matched[..., None], 0), matched


@checked
def hsd_loss(
    logits: Float[Tensor, "*batch n c"],
    deltas: Float[Tensor, "*batch n 4"],
    labels: Int[Tensor, "*batch n"],
    targets: Float[Tensor, "*batch n 4"],
    matched: Bool[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    ratio: int = 3,
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    r"""Loss of one module: cross entropy of the positives and of the hardest negatives, and smooth L1 of what is regressed.

    $$ L_{cls} = -\ln \frac{e^{x_y}}{\sum_c e^{x_c}}, \qquad L_{loc} = \sum_{i=1}^4 L1_\text{smooth}(d_i - t_i) $$

    The authors divide the first sum by the number of positives of the classifier, and the second by the number of boxes that are
    regressed, and add both sums of both modules.

    Args:
        logits: $x$, one for each of the foreground classes and, last, the background.
        deltas: $d$.
        labels: $y$, as `hsd_targets` gives them; the last class is background.
        targets: $t$, likewise.
        matched: the boxes that are regressed, likewise.
        valid: the boxes that count; by default all. In the second module these are the boxes that the first one takes for an object, with
            a probability above 0.01.
        ratio: $r$, how many negatives count for each positive.

    Returns:
        Loss of class and of place for each box.
    """
    logits, deltas, targets = widen(logits), widen(deltas), widen(targets)
    background = logits.shape[-1] - 1
    valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
    positive = valid & (labels < background)
    class_loss = entropy_of_class(logits.log_softmax(-1), labels.long().clamp(0, background))
    negative = take(class_loss.detach(), valid & ~positive, ratio * positive.sum(-1, keepdim=True))
    box_loss = smooth_l1_loss(deltas, targets, reduction="none").sum(-1)
    return class_loss.where(positive | negative, 0), box_loss.where(valid & matched, 0)


@checked
def hsd_detections(
    logits: Float[Tensor, "*batch n c"],
    objectness: Float[Tensor, "*batch n"],
    boxes: Float[Tensor, "*batch n 4"],
    *,
    object_score: float = 0.01,
    lowest_score: float = 0.01,
    threshold: float = 0.45,
    limit: int = 300,
) -> tuple[Float[Tensor, "*batch n c"], Bool[Tensor, "*batch n c"]]:
    r"""Scores and suppresses the boxes of the second module, without those that the first one does not take for an object.

    Args:
        logits: of the second module, one for each foreground class and, last, the background.
        objectness: probability of an object by the first module, in [0, 1].
        boxes: of the second module, absolute `(x1, y1, x2, y2)` in pixels.
        object_score: $\epsilon$, a box with this probability of an object, or less, is none.
        lowest_score: $p_{\min}$, a box with less is not detected.
        threshold: $N_t$, IoU above which a box discards a worse one of its class.
        limit: $D$, how many detections an image has at most, of all classes.

    Returns:
        Probability of each class for each box, all 0 for what is no object, and which box is a detection of which class.
    """
    scores = widen(logits).softmax(-1) * (objectness > object_score)[..., None]
    kept = nms_per_class(scores[..., :-1], boxes, lowest_score=lowest_score, threshold=threshold, limit=limit)
    return scores, pad(kept, (0, 1))


class HSDContext(nn.Module):
    """Enriches a level for the second module: with the next coarser level, with attention between all places, and with a wider view.

    Both maps together go three ways: through a layer with self-attention over all places, through a 3x3 convolution, and through one of
    dilation 3. The results are fused. Batch normalisation follows each convolution but those of the attention.

    Args:
        channels: of the two maps together.
        width: $w$, channels of the result.
    """

    def __init__(self, channels: int, *, width: int = 256) -> None:
        super().__init__()
        inner = channels // 4
        self.attend = nn.Sequential(_normalised(channels, inner, 3), _Attention(inner), _normalised(inner, inner, 3))
        self.near = nn.Sequential(_normalised(channels, inner, 1), _normalised(inner, inner, 3))
        self.far = nn.Sequential(_normalised(channels, inner, 1), _normalised(inner, inner, 3, dilation=3))
        self.fuse = nn.Sequential(nn.Dropout2d(0.1), _normalised(3 * inner, width, 3))

    @checked
    def forward(
        self, features: Float[Tensor, "b channels h w"], coarser: Float[Tensor, "b others rows columns"]
    ) -> Float[Tensor, "b width h w"]:
        """A level and the next coarser one -> the level, enriched."""
        above = interpolate(coarser, size=features.shape[-2:], mode="bilinear")
        both = torch.cat((above, features), 1)
        fused: Tensor = self.fuse(torch.cat((self.attend(both), self.near(both), self.far(both)), 1))
        return fused


class HierarchicalShotDetector(nn.Module):
    r"""Two modules on one level, each of which regresses, samples features where the regressed boxes are, and then classifies.

    The taps of the classifying convolution are moved by what two 1x1 convolutions, with a ReLU between, make of the deltas. Each of the
    anchors of a place moves a copy of the features of its own. The second module's offsets are those of the first and its own correction.
    Neither module's deltas learn from its classes.

    Args:
        channels: of the features.
        classes: $C$, number of foreground classes; one more output is the background.
        anchors: $A$, number of anchors at a location.
    """

    def __init__(self, channels: int, classes: int, *, anchors: int = 3) -> None:
        super().__init__()
        self.anchors = anchors
        self.regress = nn.Conv2d(channels, 4 * anchors, 3, padding=1)
        self.offsets, self.refined_offsets = _offsets(anchors), _offsets(anchors)
        self.classify = nn.Parameter(torch.empty(2 * anchors, anchors * channels, 3, 3))
        self.refine = nn.Parameter(torch.empty(4 * anchors, anchors * channels, 3, 3))
        self.classify_refined = nn.Parameter(torch.empty((classes + 1) * anchors, anchors * channels, 3, 3))
        for weight in (self.classify, self.refine, self.classify_refined):
            nn.init.uniform_(weight, -((9 * anchors * channels) ** -0.5), (9 * anchors * channels) ** -0.5)

    @checked
    def forward(
        self, features: Float[Tensor, "b channels h w"], enriched: Float[Tensor, "b channels h w"]
    ) -> tuple[Float[Tensor, "b n 4"], Float[Tensor, "b n 2"], Float[Tensor, "b n 4"], Float[Tensor, "b n c"]]:
        """Features for the first module and for the second -> deltas and logits of each anchor, row by row, of the first and of the second.

        The last logit is the background.
        """
        deltas = self.regress(features)
        offsets = self.offsets(deltas.detach())
        logits = self._look(features, offsets, self.classify)
        refined = self._look(enriched, offsets, self.refine)
        offsets = offsets + self.refined_offsets(refined.detach())
        classes = self._look(enriched, offsets, self.classify_refined)
        first, objects, second, classes = (per_anchor(x, anchors=self.anchors) for x in (deltas, logits, refined, classes))
        return first, objects, second, classes

    def _look(self, features: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
        return deformable_conv(features.repeat(1, self.anchors, 1, 1), offsets, weight, padding=1)


class _Attention(nn.Module):
    """Adds to each place a mean over all places, weighted by how alike they are; at the start nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = nn.Conv2d(width, max(width // 4, 1), 1), nn.Conv2d(width, max(width // 4, 1), 1)
        self.value = nn.Conv2d(width, width, 1)
        self.strength = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        attention = (query.mT @ key).softmax(-1)
        mean: Tensor = (value @ attention.mT).view(x.shape)
        return x + self.strength * mean


def _normalised(channels: int, width: int, size: int, *, dilation: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(channels, width, size, padding=dilation * (size // 2), dilation=dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(width), nn.ReLU())


def _offsets(anchors: int) -> nn.Sequential:
    """From the deltas of all anchors to the offsets of nine taps for each; at the start they are zero."""
    last = nn.Conv2d(12 * anchors, 18 * anchors, 1, groups=anchors, bias=False)
    nn.init.zeros_(last.weight)
    return nn.Sequential(nn.Conv2d(4 * anchors, 12 * anchors, 1, groups=anchors), nn.ReLU(), last)


def _assign(proposals: Tensor, boxes: Tensor, valid: Tensor | None, threshold: float) -> Tensor:
    """The index of the ground truth of each box, and the number of ground truths for a box without; the best of each has it.

    Where two ground truths have the same best box, the later one gets it.
    """
    found, count = best_overlaps(proposals, boxes, valid), boxes.shape[-2]
    index = torch.arange(count, device=boxes.device).expand_as(found.anchor)
    place = found.anchor.where(found.truth_iou > 0, proposals.shape[-2])
    forced = found.truth.new_full((*found.truth.shape[:-1], proposals.shape[-2] + 1), -1)
    forced = forced.scatter_reduce(-1, place, index, "amax")[..., :-1]
    return torch.where(forced >= 0, forced, found.truth.where(found.iou >= threshold, count))
