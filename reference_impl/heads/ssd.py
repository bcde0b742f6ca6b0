"""SSD, prediction from several layers: Liu, Anguelov, Erhan, Szegedy, Reed, Fu and Berg, ECCV 2016."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop
from torch.nn.functional import normalize, pad, smooth_l1_loss

from reference_impl.ops.boxes import box_iou, decode_deltas, encode_deltas, scale_deltas
from reference_impl.ops.checked import checked
from reference_impl.ops.layout import per_anchor
from reference_impl.ops.levels import check_levels
from reference_impl.ops.matching import match
from reference_impl.ops.nms import nms_per_class
from reference_impl.ops.numerics import entropy_of_class, host_may_look, widen
from reference_impl.ops.select import take

__all__ = ["SSD", "decode_offsets", "encode_offsets", "ssd_detections", "ssd_loss", "ssd_targets"]


class SSD(nn.Module):
    r"""Asks every level for the objects of its own size: one convolution for the classes and one for the boxes, no level sees another.

    The finest level is less deep than the others and has larger activations. Each location of it is brought to length 1, then every channel
    to a learned scale: $\hat x_c = \gamma_c x_c / \lVert x \rVert_2$.

    Every location has default boxes, of one size on a level:

    $$ s_k = s_{\min} + \frac{s_{\max} - s_{\min}}{m - 1} (k - 1), \qquad w = s_k \sqrt a, \quad h = s_k / \sqrt a $$

    for the levels $k = 1, \dots, m$, after one finer level with a scale $s_0$ of its own. These are a square of $s_k$, one of
    $\sqrt{s_ks_{k+1}}$, then for each aspect ratio $a$ the wide box and the tall one.

    Training matches them with the ground truth (`ssd_targets`), mines three negatives for each positive, and adds cross entropy to the
    smooth L1 loss of the offsets (`ssd_loss`), over the number of positives (`loss`). Inference is `ssd_detections` of what `forward`
    returns.

    Args:
        channels: of the levels, finest first; 512, 1024, 512, 256, 256 and 256 for the authors' VGG-16.
        ratios: aspect ratios $a > 1$ of each of the levels, at least three levels; `[[2], [2, 3], [2, 3], [2, 3], [2], [2]]` in SSD300.
        classes: number $C$ of foreground classes.
        strides: pixels between two locations of each level; the authors have 8, 16, 32, 64, 100 and 300. By default the locations are
            spread evenly over the image, whatever its size.
        scale: $\gamma$ at the start.
        finest: $s_0$, scale of the finest level. The scales are in shorter sides of the image.
        smallest: $s_{\min}$ of the second finest level.
        largest: $s_{\max}$, up to rounding.
        decimals: how many decimals the step from one scale to the next is rounded down to; the authors round it to whole percents.
        clip: whether boxes end at the border of the image.

    Raises:
        ValueError: there are fewer than three levels, or their numbers do not agree.
    """

    def __init__(
        self,
        channels: Sequence[int],
        ratios: Sequence[Sequence[float]],
        classes: int,
        strides: Sequence[float] | None = None,
        *,
        scale: float = 20.0,
        finest: float = 0.1,
        smallest: float = 0.2,
        largest: float = 0.9,
        decimals: int = 2,
        clip: bool = False,
    ) -> None:
        super().__init__()
        if len(ratios) < 3:
            raise ValueError(f"SSD: `ratios` has {len(ratios)} levels; expected at least 3")
        for name, given in (("channels", channels), ("strides", strides)):
            if given is not None and len(given) != len(ratios):
                raise ValueError(f"SSD: `{name}` has {len(given)} levels; expected {len(ratios)}, as `ratios`")
        step = math.floor((largest - smallest) / (len(ratios) - 2) * 10**decimals + 1e-6) / 10**decimals
        scales = [finest, *(smallest + step * k for k in range(len(ratios)))]
        self.shapes = [_shapes(s, above, of_level) for s, above, of_level in zip(scales, scales[1:], ratios, strict=False)]
        self.strides = [None] * len(ratios) if strides is None else list(strides)
        self.channels, self.classes, self.clip = tuple(channels), classes, clip
        self.scale = nn.Parameter(torch.full((channels[0], 1, 1), scale))
        sizes = [(c, len(of_level)) for c, of_level in zip(channels, self.shapes, strict=True)]
        self.classify = nn.ModuleList(nn.Conv2d(c, anchors * (classes + 1), 3, padding=1) for c, anchors in sizes)
        self.regress = nn.ModuleList(nn.Conv2d(c, anchors * 4, 3, padding=1) for c, anchors in sizes)
        for layer in (*self.classify, *self.regress):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, levels: Sequence[Tensor], height: int, width: int
    ) -> tuple[Float[Tensor, "b n classes"], Float[Tensor, "b n 4"], Float[Tensor, "n 4"]]:
        """Levels `[b channels[i] h_i w_i]`, finest first, and the image's size -> what is predicted for each default box, and the boxes.

        Returns:
            Logits of the classes, background last; offsets, as `encode_offsets` gives them; the boxes, absolute `(x1, y1, x2, y2)` in
            pixels. Level by level, row by row, location by location.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("SSD", levels, self.channels)
        direction = normalize(widen(levels[0]), dim=1).to(levels[0].dtype)
        levels = [direction * self.scale, *levels[1:]]
        anchors = [len(of_level) for of_level in self.shapes]
        logits = [per_anchor(layer(x), anchors=a) for layer, x, a in zip(self.classify, levels, anchors, strict=True)]
        offsets = [per_anchor(layer(x), anchors=a) for layer, x, a in zip(self.regress, levels, anchors, strict=True)]
        return torch.cat(logits, 1), torch.cat(offsets, 1), self._default_boxes(levels, height, width)

    def loss(
        self,
        found: tuple[Tensor, Tensor, Tensor],
        boxes: Float[Tensor, "b m 4"],
        labels: Int[Tensor, "b m"],
        valid: Bool[Tensor, "b m"] | None = None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        r"""The objective of a batch, to be added up: a crowded image weighs more than one of a single object.

        $$ L = \frac{1}{\max(N, 1)} \left(\sum L_{cls} + \sum L_{loc}\right) $$

        Args:
            found: what `forward` returns.
            boxes: ground truths, absolute `(x1, y1, x2, y2)` in pixels.
            labels: their classes, from 0.
            valid: which of `boxes` are no padding; by default all.

        Returns:
            Loss of class and of place, each over the number $N$ of positives in all images of the batch.
        """
        logits, offsets, anchors = found
        label, target = ssd_targets(anchors, boxes, labels, valid, classes=self.classes)
        positives = (label < self.classes).sum().clamp(min=1)
        class_loss, box_loss = ssd_loss(logits, offsets, label, target)
        return class_loss.sum() / positives, box_loss.sum() / positives

    def _default_boxes(self, levels: Sequence[Tensor], height: int, width: int) -> Tensor:
        found, unit = [], min(height, width) / 2
        for level, of_level, stride in zip(levels, self.shapes, self.strides, strict=True):
            rows, columns = level.shape[-2:]
            place = torch.arange(max(rows, columns), device=level.device, dtype=widen(level).dtype) + 0.5
            x = place[:columns].expand(rows, columns) * (stride or width / columns)
            y = place[:rows, None].expand(rows, columns) * (stride or height / rows)
            corners = [(x - w * unit, y - h * unit, x + w * unit, y + h * unit) for w, h in of_level]
            found.append(torch.stack([torch.stack(four, -1) for four in corners], -2).flatten(0, 2))
        x1, y1, x2, y2 = torch.cat(found).unbind(-1)
        if self.clip:
            (x1, x2), (y1, y2) = (x1.clamp(0, width), x2.clamp(0, width)), (y1.clamp(0, height), y2.clamp(0, height))
        return torch.stack((x1, y1, x2, y2), -1)


def _shapes(scale: float, above: float, ratios: Sequence[float]) -> list[tuple[float, float]]:
    """Width and height of the boxes at one location of a level, whose next coarser level has the scale `above`."""
    extra = (scale * above) ** 0.5
    shapes = [(scale, scale), (extra, extra)]
    for ratio in ratios:
        root = ratio**0.5
        shapes += [(scale * root, scale / root), (scale / root, scale * root)]
    return shapes


@checked
def encode_offsets(
    boxes: Float[Tensor, "*#batch n 4"],
    anchors: Float[Tensor, "*#batch n 4"],
    *,
    center_variance: float = 0.1,
    size_variance: float = 0.2,
) -> Float[Tensor, "*#batch n 4"]:
    r"""Gives the targets of all levels one unit, in which they are some ten times as large as shares of an anchor.

    $$ t = \left(\frac{x - x_a}{v_1 w_a}, \frac{y - y_a}{v_2 h_a}, \frac{1}{v_3} \ln\frac{w}{w_a}, \frac{1}{v_4} \ln\frac{h}{h_a}\right) $$

    Offsets count in sizes of the anchor, so that an error weighs the same for small and for large objects.

    Args:
        boxes: ground truth of each anchor, absolute `(x1, y1, x2, y2)` in pixels, with centre $(x, y)$ and size $(w, h)$.
        anchors: the default boxes, the same.
        center_variance: $v_1 = v_2$.
        size_variance: $v_3 = v_4$.

    Returns:
        What the head has to predict; it may be negative.

    Raises:
        ValueError: the shapes do not fit together.
    """
    return scale_deltas(encode_deltas(boxes, anchors), center=1 / center_variance, size=1 / size_variance)


@checked
def decode_offsets(
    offsets: Float[Tensor, "*#batch n 4"],
    anchors: Float[Tensor, "*#batch n 4"],
    *,
    center_variance: float = 0.1,
    size_variance: float = 0.2,
) -> Float[Tensor, "*#batch n 4"]:
    r"""Turns what the head predicts into boxes: the inverse of `encode_offsets`.

    $$ x = x_a + v_1 t_1 w_a, \quad y = y_a + v_2 t_2 h_a, \quad w = w_a e^{v_3 t_3}, \quad h = h_a e^{v_4 t_4} $$

    Args:
        offsets: $t$, as `SSD` predicts them.
        anchors: the default boxes, absolute `(x1, y1, x2, y2)` in pixels.
        center_variance: $v_1 = v_2$.
        size_variance: $v_3 = v_4$.

    Returns:
        One box for each anchor. A coordinate may be negative.

    Raises:
        ValueError: the shapes do not fit together.
    """
    return decode_deltas(scale_deltas(offsets, center=center_variance, size=size_variance), anchors)


@checked
def ssd_targets(
    anchors: Float[Tensor, "*#batch n 4"],
    boxes: Float[Tensor, "*#batch m 4"],
    labels: Int[Tensor, "*#batch m"],
    valid: Bool[Tensor, "*#batch m"] | None = None,
    *,
    classes: int = 20,
    threshold: float = 0.5,
    center_variance: float = 0.1,
    size_variance: float = 0.2,
) -> tuple[Int[Tensor, "*#batch n"], Float[Tensor, "*#batch n 4"]]:
    r"""What the heads have to learn: every ground truth gets a default box of its own, and all others that overlap it enough.

    $$ (i_k, j_k) = \operatorname*{arg\,max}_{i \notin \{i_1, \dots, i_{k-1}\},\ j \notin \{j_1, \dots, j_{k-1}\}} \mathrm{IoU}(a_i, g_j),
    \qquad y_i = \begin{cases} c_{j_k} & i = i_k \\ c_j & \max_j \mathrm{IoU}(a_i, g_j) \ge u \\ C & \text{otherwise} \end{cases} $$

    The best pair of all comes first, then the best of the default boxes and ground truths that are left, as long as they overlap. So two
    objects that want the same default box both have one, and a small object that none overlaps by half is learned, too. The earlier ground
    truth or default box wins a tie. Memory grows with $n m$, as all pairs compete. No gradient passes through.

    Args:
        anchors: the default boxes $a$, absolute `(x1, y1, x2, y2)` in pixels, one set for all images or one for each.
        boxes: ground truths $g$, the same.
        labels: their classes $c$, 0 to $C - 1$. A classifier of objects against background takes zeros, with `classes=1`.
        valid: which of `boxes` are no padding; by default all.
        classes: number $C$ of foreground classes, and the label of background.
        threshold: $u$, IoU from which on a default box stands for the ground truth that it overlaps most.
        center_variance: unit of the offsets, as in `encode_offsets`.
        size_variance: the same for the size.

    Returns:
        Label of each default box, and its offsets (0 for background, and may be negative).

    Raises:
        ValueError: the shapes do not fit, or `threshold` is not above 0.
    """
    anchors, boxes = anchors.detach(), boxes.detach()
    overlap = box_iou(anchors[..., None, :, :], boxes[..., :, None, :])
    own = _best_pairs(overlap if valid is None else overlap.where(valid[..., None], 0))
    truth = torch.where(own >= 0, own, match(anchors, boxes, valid, positive=threshold, negative=threshold, keep_best=False))
    label = pad(labels, (1, 0), value=classes).expand(*truth.shape[:-1], -1).gather(-1, truth + 1)
    box = pad(boxes, (0, 0, 1, 0)).expand(*truth.shape[:-1], -1, 4).gather(-2, truth[..., None].expand(*truth.shape, 4) + 1)
    target = encode_offsets(box, anchors, center_variance=center_variance, size_variance=size_variance)
    return label, target.where((truth >= 0)[..., None], 0)


def _best_pairs(overlap: Tensor) -> Tensor:
    """The ground truth to which each anchor is given, or -1: of the pairs `[*batch m n]` the best first, none twice.

    All pairs that are the best for both are settled at once, so that there are few rounds.
    """
    m, n = overlap.shape[-2:]
    index = torch.arange(m, device=overlap.device)

    def settle(owner: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        reach, anchor = left.max(-1)
        rivals = left.gather(-1, anchor[..., None, :].expand(*anchor.shape, m))
        wins = (rivals.argmax(-2) == index) & (reach > 0)
        owner = owner.scatter(-1, anchor.where(wins, n), index.expand_as(anchor))
        return owner, left.masked_fill(wins[..., None] | (owner[..., None, :n] >= 0), 0)

    def goes_on(owner: Tensor, left: Tensor) -> Tensor:
        return left.any()

    owner = torch.full((*overlap.shape[:-2], n + 1), -1, device=overlap.device)
    state = owner, overlap
    if torch.compiler.is_compiling():
        state = while_loop(goes_on, settle, state)  # type: ignore[no-untyped-call]
    else:
        for _ in range(min(m, n)):
            if host_may_look(overlap) and not goes_on(*state):
                break
            state = settle(*state)
    return state[0][..., :n]


@checked
def ssd_loss(
    logits: Float[Tensor, "*batch n c"],
    offsets: Float[Tensor, "*batch n 4"],
    labels: Int[Tensor, "*batch n"],
    targets: Float[Tensor, "*batch n 4"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    ratio: float = 3,
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    r"""Cross entropy of the positives and of the hardest negatives of each image, and smooth L1 of the positives' offsets.

    $$ L_{cls} = -\ln \frac{e^{x_y}}{\sum_c e^{x_c}}, \qquad L_{loc} = [y < C] \sum_{i=1}^4 L1_\text{smooth}(d_i - t_i) $$

    The negatives are those of `hard_negative_mining`: an image without positives has none. Both losses weigh alike; their sum over the
    batch is divided by the number of positives in it.

    Args:
        logits: $x$, one for each of the foreground classes and, last, the background.
        offsets: $d$.
        labels: $y$, as `ssd_targets` gives them; the last class is background.
        targets: $t$, likewise.
        valid: the default boxes that count; by default all.
        ratio: $r$, how many negatives count for each positive.

    Returns:
        Loss of class and of place for each default box.
    """
    logits, offsets, targets = widen(logits), widen(offsets), widen(targets)
    background = logits.shape[-1] - 1
    valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
    positive = valid & (labels < background)
    class_loss = entropy_of_class(logits.log_softmax(-1), labels.long().clamp(0, background))
    negative = take(class_loss.detach(), valid & ~positive, ratio * positive.sum(-1, keepdim=True))
    box_loss = smooth_l1_loss(offsets, targets, reduction="none").sum(-1)
    return class_loss.where(positive | negative, 0), box_loss.where(positive, 0)


@checked
def ssd_detections(
    logits: Float[Tensor, "*batch n c"],
    offsets: Float[Tensor, "*batch n 4"],
    anchors: Float[Tensor, "*#batch n 4"],
    *,
    center_variance: float = 0.1,
    size_variance: float = 0.2,
    lowest_score: float = 0.01,
    threshold: float = 0.45,
    limit: int = 200,
) -> tuple[Float[Tensor, "*batch n c"], Float[Tensor, "*batch n 4"], Bool[Tensor, "*batch n c"]]:
    r"""Turns all predictions of an image into boxes, and keeps the best of each class that overlap no better one of that class.

    Args:
        logits: one for each of the foreground classes and, last, the background, which is never detected.
        offsets: as `SSD` predicts them.
        anchors: the default boxes, absolute `(x1, y1, x2, y2)` in pixels.
        center_variance: unit of the offsets, as in `decode_offsets`.
        size_variance: the same for the size.
        lowest_score: $p_{\min}$, a box with a lower probability is not detected.
        threshold: $N_t$, IoU above which a box discards a worse one of its class.
        limit: $D$, how many detections an image has at most, of all classes.

    Returns:
        Probability of each class for each box, the boxes, and which box is a detection of which class. Coordinates may be negative.
    """
    scores = widen(logits).softmax(-1)
    boxes = decode_offsets(offsets, anchors, center_variance=center_variance, size_variance=size_variance)
    kept = nms_per_class(scores[..., :-1], boxes, lowest_score=lowest_score, threshold=threshold, limit=limit)
    return scores, boxes, pad(kept, (0, 1))
