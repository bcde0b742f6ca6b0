"""OverFeat: Sermanet, Eigen, Zhang, Mathieu, Fergus and LeCun, ICLR 2014."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop
from torch.nn.functional import max_pool2d, pad, pixel_shuffle, pixel_unshuffle

from reference_impl.ops.boxes import box_area, box_intersection, box_iou, box_size, enclosing_box, squared_center_distance
from reference_impl.ops.checked import checked
from reference_impl.ops.layout import per_anchor
from reference_impl.ops.numerics import entropy_of_class, safe_divide, widen
from reference_impl.ops.select import closest_pair

__all__ = ["OverFeat", "merge_predictions", "overfeat_loss", "window_targets"]


@checked
def window_targets(
    windows: Float[Tensor, "*batch n 4"],
    boxes: Float[Tensor, "*batch m 4"],
    labels: Int[Tensor, "*batch m"],
    valid: Bool[Tensor, "*batch m"] | None = None,
    *,
    classes: int = 1000,
    threshold: float = 0.5,
) -> tuple[Int[Tensor, "*batch n"], Float[Tensor, "*batch n 4"]]:
    r"""What each window has to predict of the object in it: its class, and where its edges lie relative to the window.

    $$ y = \begin{cases} c_j & \max_j A(w \cap g_j) / A(g_j) \ge \tau \\ C & \text{otherwise} \end{cases}, \qquad
    t = \Big( \frac{g_{x1} - w_{x1}}{W}, \frac{g_{y1} - w_{y1}}{H}, \frac{g_{x2} - w_{x1}}{W}, \frac{g_{y2} - w_{y1}}{H} \Big) $$

    An object that is mostly outside is left to the windows that contain it. No gradient passes through.

    Args:
        windows: $w$, what a location of the output sees, absolute `(x1, y1, x2, y2)` in pixels, $W$ wide and $H$ high.
        boxes: $g$, the objects, the same.
        labels: $c$ of each, 0 to $C - 1$.
        valid: which of `boxes` are no padding; by default all.
        classes: number $C$ of foreground classes, and the label of background.
        threshold: $\tau$, share of an object that has to lie in the window.

    Returns:
        Label of each window, and the edges of the object of which it sees the largest share, in sizes of the window; 0 for background. They
        may be negative.
    """
    windows, boxes = widen(windows.detach()), widen(boxes.detach())
    shared = box_intersection(windows[..., :, None, :], boxes[..., None, :, :])
    share = safe_divide(shared, box_area(boxes)[..., None, :])
    share = share if valid is None else share.where(valid[..., None, :], 0)
    largest, index = pad(share, (0, 1)).max(-1)
    sees = largest >= threshold
    label = pad(labels, (0, 1)).gather(-1, index)
    own = pad(boxes, (0, 0, 0, 1)).gather(-2, index[..., None].expand(windows.shape))
    corner, size = windows[..., :2], box_size(windows)
    edges = safe_divide(own - torch.cat((corner, corner), -1), torch.cat((size, size), -1))
    return torch.where(sees, label, classes), edges.where(sees[..., None], 0)


@checked
def overfeat_loss(
    logits: Float[Tensor, "*batch n c"],
    pred: Float[Tensor, "*batch n k 4"],
    labels: Int[Tensor, "*batch n"],
    target: Float[Tensor, "*batch n 4"],
    valid: Bool[Tensor, "*batch n"] | None = None,
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    r"""Cross entropy, and the squared error of the edges that the regressor of the window's own class gives.

    $$ L_{cls} = -\ln \frac{e^{x_y}}{\sum_c e^{x_c}}, \qquad L_{loc} = [y < C] \sum_{i=1}^4 (b_{y,i} - t_i)^2 $$

    A window that is far off counts much more than others: its loss is the square of its error, and its gradient grows with the error. The
    authors train the classifier first, and then the regressor alone.

    Args:
        logits: $x$ of $C + 1$ classes, background last.
        pred: $b$ of each class, or of one for all, in sizes of the window.
        labels: $y$, as `window_targets` gives them.
        target: $t$, likewise.
        valid: the windows that count; by default all.

    Returns:
        Loss of class and of place for each window.
    """
    logits, pred, target = widen(logits), widen(pred), widen(target)
    valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
    labels = labels.long().clamp(0, logits.shape[-1] - 1)
    by_class = entropy_of_class(logits.log_softmax(-1), labels)
    regressor = labels.clamp(max=max(pred.shape[-2] - 1, 0))
    own = pad(pred, (0, 0, 0, 1)).gather(-2, regressor[..., None, None].expand(*labels.shape, 1, 4)).squeeze(-2)
    by_box = (own - target.to(own.dtype)).square().sum(-1)
    return by_class.where(valid, 0), by_box.where(valid & (labels < logits.shape[-1] - 1), 0)


@checked
def merge_predictions(
    boxes: Float[Tensor, "*batch n 4"],
    score: Float[Tensor, "*batch n"],
    labels: Int[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    threshold: float = 0.0,
) -> tuple[Float[Tensor, "*batch n 4"], Float[Tensor, "*batch n"], Bool[Tensor, "*batch n"]]:
    r"""Merges the boxes of all locations and scales that agree, instead of suppressing all but one: agreement is evidence.

    $$ (b_1^*, b_2^*) = \arg\min_{b_1 \ne b_2} m(b_1, b_2), \qquad \mathcal{B} \leftarrow \mathcal{B} \setminus \{b_1^*, b_2^*\}
    \cup \Big\{ \frac{b_1^* + b_2^*}{2} \Big\} \quad \text{while } m(b_1^*, b_2^*) \le \theta $$

    The match score is small for boxes whose centres are near and that share much, with the distance $d$ of the centres and the diagonal $E$
    of the smallest box around both:

    $$ m(b_1, b_2) = \frac{d(b_1, b_2)}{E} - \mathrm{IoU}(b_1, b_2) $$

    The scores of two boxes are added, so a false positive that stands alone stays behind an object that many windows see. It takes up to
    one round for each box, and each round compares all pairs. No gradient passes through.

    Args:
        boxes: predictions, absolute `(x1, y1, x2, y2)` in pixels of one image.
        score: what the classifier says of the window that each comes from.
        labels: class of each; only boxes of one class are merged.
        valid: the predictions that are no padding; by default all.
        threshold: $\theta$, match score up to which boxes are merged, in -1 (the same box) to 1 (far apart).

    Returns:
        Boxes and scores, which may exceed 1, and which of them are left; 0 for the others. A merged box is in the place of the earlier one.
    """
    boxes, score = widen(boxes.detach()), widen(score.detach())
    active = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
    n = labels.shape[-1]
    place = torch.arange(n, device=boxes.device)
    same_class = labels[..., :, None] == labels[..., None, :]

    def merge(boxes: Tensor, score: Tensor, active: Tensor, going: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        a, b = boxes[..., :, None, :], boxes[..., None, :, :]
        diagonal = box_size(enclosing_box(a, b)).square().sum(-1)
        match = safe_divide(squared_center_distance(a, b), diagonal).sqrt() - box_iou(a, b)
        earlier, later, lowest = closest_pair(match.masked_fill(~same_class, torch.inf), active)
        goes_on = lowest <= threshold
        first, second = (place == earlier) & goes_on, (place == later) & goes_on
        both = first | second
        middle = (boxes * both[..., None]).sum(-2, keepdim=True) / 2
        return (
            torch.where(first[..., None], middle, boxes),
            torch.where(first, (score * both).sum(-1, keepdim=True), score),
            active & ~second,
            goes_on,
        )

    state = boxes.clone(), score.clone(), active.clone(), torch.ones_like(active[..., :1])
    if n < 2:
        pass
    elif torch.compiler.is_compiling():
        state = while_loop(lambda boxes, score, active, going: going.any(), merge, state)  # type: ignore[no-untyped-call]
    else:
        for _ in range(n - 1):
            state = merge(*state)
            if boxes.device.type == "cpu" and not state[3].any():
                break
    boxes, score, active, _ = state
    return boxes.where(active[..., None], 0), score.where(active, 0), active


class OverFeat(nn.Module):
    r"""A classifier and a box regressor that slide over the last layer as convolutions, three times as densely as its pooling would allow.

    The last pooling is done from each of its `pool` x `pool` offsets; each of the pooled maps is classified, and the results are
    interleaved, so that windows are one cell of the unpooled layer apart. Every window also predicts the edges of its object, by a
    regressor for each class, from the same features. Both run on the features of several sizes of the image.

    Args:
        channels: of the last layer, before its pooling.
        classes: number $C$ of foreground classes; background comes last.
        size: $k$, rows and columns of pooled cells that a window has.
        pool: $n$, rows and columns of a region of the pooling, which do not overlap; as many offsets either way.
        hidden_6: $h_6$, units of the classifier's first layer, the sixth of the network.
        hidden_7: $h_7$, units of its second.
        regression_1: $r_1$, units of the regressor's first layer.
        regression_2: $r_2$, units of its second.
        dropout: $q$, share of the classifier's units that training leaves out.
        per_class: whether each class has its own last layer of the regressor.
        stride: $\Delta$, pixels from one cell of the unpooled layer to the next.
        field: $F$, pixels, rows and columns, of the window that one location sees.
    """

    def __init__(
        self,
        channels: int = 256,
        classes: int = 1000,
        *,
        size: int = 5,
        pool: int = 3,
        hidden_6: int = 3072,
        hidden_7: int = 4096,
        regression_1: int = 4096,
        regression_2: int = 1024,
        dropout: float = 0.5,
        per_class: bool = True,
        stride: int = 12,
        field: int = 221,
    ) -> None:
        super().__init__()
        self.channels, self.size, self.pool, self.stride, self.field = channels, size, pool, stride, field
        self.regressors = classes if per_class else 1
        self.classify = _layers(channels, size, (hidden_6, hidden_7), classes + 1, dropout)
        self.regress = _layers(channels, size, (regression_1, regression_2), 4 * self.regressors, 0.0)

    @checked
    def forward(self, features: Float[Tensor, "b channels h w"]) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n k 4"]]:
        """Unpooled features of the last layer -> of each window, row by row, logits and edges in sizes of the window.

        A map of `h` rows gives `pool * ((h - pool + 1) // pool - size + 1)`, and as many columns of its width.

        Raises:
            ValueError: the channels do not fit, or the map is smaller than a window.
        """
        if features.shape[1] != self.channels:
            raise ValueError(f"OverFeat: `features` has shape {tuple(features.shape)}; expected {self.channels} channels")
        rows, columns = self._pooled(features.shape[-2:])
        if min(rows, columns) < self.size:
            raise ValueError(f"OverFeat: `features` has shape {tuple(features.shape)}; a window has {self.size} x {self.size} pooled cells")
        step, images = self.pool, len(features)
        dense = max_pool2d(features, step, stride=1)[..., : rows * step, : columns * step]
        of_offsets = pixel_unshuffle(dense, step).view(images, self.channels, step**2, rows, columns).transpose(1, 2).flatten(0, 1)
        logits, edges = (self._interleaved(layers(of_offsets), images) for layers in (self.classify, self.regress))
        classes, found = per_anchor(logits, anchors=1), per_anchor(edges, anchors=self.regressors)
        return classes, found.view(images, classes.shape[1], self.regressors, 4)

    def windows(self, height: int, width: int, *, scale: float = 1.0) -> Float[Tensor, "n 4"]:
        """What each location of the output sees: boxes in pixels of an image that was brought to `scale` times its size.

        Args:
            height: rows of the unpooled features.
            width: columns of them.
            scale: size of the image that they were computed from, relative to the one in whose pixels the windows are wanted.
        """
        rows, columns = (self.pool * (side - self.size + 1) for side in self._pooled((height, width)))
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        corner = self.stride * torch.stack((x, y), -1).flatten(0, 1)
        parameter = next(self.parameters())
        return torch.cat((corner, corner + self.field), -1).to(parameter.device, parameter.dtype) / scale

    def class_scores(self, levels: Sequence[Tensor]) -> Float[Tensor, "b c"]:
        """Probability of each foreground class in an image: the largest of all windows of a scale, averaged over the scales.

        Args:
            levels: unpooled features of several sizes of the images, and of mirrored ones, `[b channels h_i w_i]`.
        """
        return torch.stack([self(x)[0].softmax(-1)[..., :-1].amax(1) for x in levels]).mean(0)

    def detect(
        self, levels: Sequence[Tensor], scales: Sequence[float], *, k: int = 5, threshold: float = 0.0
    ) -> tuple[Float[Tensor, "b n 4"], Float[Tensor, "b n"], Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
        """Boxes of the likeliest classes at every scale and location, merged.

        Args:
            levels: unpooled features of several sizes of the images, `[b channels h_i w_i]`.
            scales: these sizes, relative to that of the images in whose pixels the boxes are wanted.
            k: number of classes of a scale, those with the largest probability anywhere.
            threshold: match score up to which boxes are merged.

        Returns:
            Boxes, accumulated scores, classes, and which of the boxes are left. The one with the largest score is the best.
        """
        boxes, scores, labels = [], [], []
        for x, scale in zip(levels, scales, strict=True):
            logits, edges = self(x)
            probability = logits.softmax(-1)[..., :-1]
            likeliest = probability.amax(1, keepdim=True).topk(k).indices.expand(*probability.shape[:2], k)
            regressor = likeliest.clamp(max=self.regressors - 1)[..., None]
            windows = self.windows(*x.shape[-2:], scale=scale)[:, None]
            corner, size = windows[..., :2].repeat(1, 1, 2), box_size(windows).repeat(1, 1, 2)
            own = edges.gather(2, regressor.expand(*regressor.shape[:-1], 4))
            boxes.append((own * size + corner).flatten(1, 2))
            scores.append(probability.gather(2, likeliest).flatten(1))
            labels.append(likeliest.flatten(1))
        of_all = torch.cat(labels, 1)
        merged, score, left = merge_predictions(torch.cat(boxes, 1), torch.cat(scores, 1), of_all, threshold=threshold)
        return merged, score, of_all, left

    def _pooled(self, sides: Sequence[int]) -> list[int]:
        """Rows and columns that a pooling has from every offset."""
        return [(side - self.pool + 1) // self.pool for side in sides]

    def _interleaved(self, maps: Tensor, images: int) -> Tensor:
        """Outputs of all offsets, `[b * pool^2 c h w]` -> one map, in which neighbours come from neighbouring offsets."""
        _, channels, height, width = maps.shape
        apart = maps.view(images, self.pool**2, channels, height, width).transpose(1, 2)
        return pixel_shuffle(apart.flatten(1, 2), self.pool)


def _layers(channels: int, size: int, hidden: tuple[int, int], outputs: int, dropout: float) -> nn.Sequential:
    """Three fully connected layers, as convolutions."""
    layers = nn.Sequential(
        nn.Conv2d(channels, hidden[0], size),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(hidden[0], hidden[1], 1),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Conv2d(hidden[1], outputs, 1),
    )
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    return layers
