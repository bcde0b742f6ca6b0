"""Boosted cascade of simple features: Viola and Jones, CVPR 2001."""

from itertools import product

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop
from torch.nn.functional import pad

from reference_impl.ops.boosting import boosted_score, boosted_stumps, rejection_threshold, responses
from reference_impl.ops.boxes import box_area, box_intersection
from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import safe_divide, widen
from reference_impl.ops.select import take
from reference_impl.ops.warp import bilinear

__all__ = ["BoostedCascade", "average_overlapping", "boosted_stage", "majority_vote", "mirrored_windows", "rectangle_features"]

# Two rectangles side by side and one above the other, three of either, and four: columns and rows of each kind.
SHAPES = ((2, 1), (1, 2), (3, 1), (1, 3), (2, 2))
# Up to which share of the mean square the variance of a window is rounding: nothing is in it.
FLAT = 1e-9
# How many features, and of how many windows, are computed at once.
FEATURES, WINDOWS = 256, 4096


@checked
def rectangle_features(
    images: Float[Tensor, "*batch h w"],
    boxes: Float[Tensor, "*batch n 4"],
    rectangles: Int[Tensor, "c 5"],
    *,
    size: int = 24,
) -> Float[Tensor, "*batch n c"]:
    r"""Contrasts between adjacent rectangles of each window, each from a few numbers of the integral image, however large the window is.

    $$ v = \frac{1}{s^2 \sigma} \Big( \sum_{(x, y) \in \text{grey}} i(x, y) - \sum_{(x, y) \in \text{white}} i(x, y) \Big), \qquad
    \sigma^2 = \frac{1}{N} \sum_{(x, y) \in b} i(x, y)^2 - m^2 $$

    Sums of pixels $i$ are differences of the integral image, $ii(x, y) = \sum_{x' \le x,\, y' \le y} i(x', y')$; that of $i^2$ gives
    $\sigma$. $m$ is the mean of the $N$ pixels of window $b$. Grey is the second of two rectangles, the one in the middle of three, and of
    four the upper right and the lower left. A window $s$ times as large as `size` stretches the rectangles by $s$; where they end inside a
    pixel, a part of it counts.

    Args:
        images: $i$, grey values of any unit, `h` rows of `w` pixels; 0 beyond them.
        boxes: $b$, the windows, absolute `(x1, y1, x2, y2)` in pixels, where pixel `i` reaches from `i` to `i + 1`.
        rectangles: left and upper side of a feature in a window of `size` pixels, width and height of one of its rectangles, and its kind:
            0 and 1 two rectangles, beside and above each other, 2 and 3 three of them, 4 four.
        size: $s_0$, side of the window that `rectangles` are meant for.

    Returns:
        $v$, in standard deviations of the window times pixels of a window of `size`; 0 in a window without contrast. It may be negative.
    """
    images, boxes = widen(images), widen(boxes)
    sums = torch.stack([pad(x.double().cumsum(-1).cumsum(-2), (1, 0, 1, 0)) for x in (images, images.square())], -3)
    scale = (boxes[..., 2:] - boxes[..., :2]) / size
    steps = torch.arange(4, device=boxes.device)
    x, y = (rectangles[:, i, None] + rectangles[:, i + 2, None] * steps for i in (0, 1))
    x, y = (boxes[..., i, None, None] + scale[..., i, None, None] * v for i, v in ((0, x), (1, y)))
    is_kind = [rectangles[:, 4, None, None] == kind for kind in range(len(SHAPES))]
    columns, rows = (torch.stack([is_kind[k] * shape[i] for k, shape in enumerate(SHAPES)]).sum(0) for i in (0, 1))
    column, row = steps[:3], steps[:3, None]
    grey = torch.where((row + column) % 2 == 1, 1, -1)
    counts = (row < rows) & (column < columns)
    contrast = (_sums_between(sums[..., :1, :, :], x, y).squeeze(-5) * grey * counts).sum((-2, -1))

    of_window = _sums_between(sums, boxes[..., None, 0::2], boxes[..., None, 1::2]).flatten(-4)
    first, second = safe_divide(of_window, box_area(boxes)[..., None, :].double()).unbind(-2)
    variance = second - first.square()
    has_contrast = variance > FLAT * second
    deviation = variance.where(has_contrast, 1).sqrt()
    unit = safe_divide(has_contrast.double(), deviation * scale.prod(-1).double())
    return (contrast * unit[..., None]).to(images.dtype)


def _sums_between(sums: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """What lies between columns x `[*batch n c i]` and rows y `[*batch n c j]`, by integral images: `[*batch maps n c j-1 i-1]`."""
    shape = *x.shape[:-1], y.shape[-1], x.shape[-1]
    x, y = x.double().clamp(0, sums.shape[-1] - 1), y.double().clamp(0, sums.shape[-2] - 1)
    x, y = x[..., None, :].expand(shape).flatten(-4, -2), y[..., :, None].expand(shape).flatten(-4, -2)
    corners: Tensor = bilinear(sums, x, y)
    return corners.view(*corners.shape[:-2], *shape[-4:]).diff(dim=-1).diff(dim=-2)


@checked
def boosted_stage(
    features: Float[Tensor, "*batch n c"],
    positive: Bool[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    held: Bool[Tensor, "*batch n"] | None = None,
    *,
    k: int = 50,
    recall: float = 0.99,
    false_positives: float = 0.4,
) -> tuple[Int[Tensor, "*batch k"], Float[Tensor, "*batch k"], Float[Tensor, "*batch k"], Float[Tensor, "*batch"]]:
    r"""Trains one stage of the cascade: as few features as let nearly all objects pass and stop a good part of the background.

    $$ h_t(x) = [p_t x_{j_t} < p_t \theta_t], \qquad \epsilon_t = \sum_i w_{t,i} |h_t(x_i) - y_i|, \qquad
    w_{t+1,i} \propto w_{t,i}\, \beta_t^{1 - e_i}, \qquad \beta_t = \frac{\epsilon_t}{1 - \epsilon_t} $$

    $h_t$ is a weak classifier: feature $j_t$ against a cut $\theta_t$, with a sign $p_t$; $e_i$ is 0 where it is right about window $i$,
    else 1. At the start objects and background weigh half each, however few the objects are. A window passes where

    $$ \sum_{t=1}^T \alpha_t h_t(x) \ge \tfrac{1}{2} \sum_{t=1}^T \alpha_t + b, \qquad \alpha_t = \ln \frac{1}{\beta_t} $$

    AdaBoost's own $b$ is 0, which makes few mistakes of either kind. Here $b$ is the highest with which the share $d$ of the objects
    passes, and the stage takes one feature after the other until no more than the share $f$ of the background passes. No gradient passes
    through.

    Args:
        features: $x$ of each window.
        positive: the windows that show an object, $y = 1$.
        valid: the windows that have passed the stages before; by default all.
        held: those of them that are held out from training and only measure the two rates; by default all train and measure.
        k: $T$, number of features at most.
        recall: $d$, share of the objects that has to pass.
        false_positives: $f$, share of the background that may pass.

    Returns:
        Feature $j_t$, cut $\theta_t$ and weight $-p_t \alpha_t / 2$ of each weak classifier, as `ops.boosting.boosted_score` sums them, all
        0 for those that are not needed; and $b$, the lowest number of its type if there is no object to measure.
    """
    valid = torch.ones_like(positive) if valid is None else valid
    training, measured = (valid, valid) if held is None else (valid & ~held, valid & held)
    feature, cut, weight = boosted_stumps(features, positive, training, k=k)
    score = (weight[..., None, :] * responses(widen(features.detach()), feature, cut)).cumsum(-1).mT
    objects, background = ((measured & x)[..., None, :].expand(score.shape) for x in (positive, ~positive))
    passes = score >= rejection_threshold(score, objects, recall=recall)[..., None]
    rate = safe_divide((passes & background).sum(-1).double(), background.sum(-1).double())
    needed = ((rate <= false_positives).cumsum(-1) == 0).roll(1, -1)
    needed[..., :1] = True
    feature, cut, weight = (x.where(needed, 0) for x in (feature, cut, weight))
    bar = rejection_threshold(boosted_score(features.detach(), feature, cut, weight), positive, measured, recall=recall)
    return feature, cut, weight, bar


@checked
def mirrored_windows(
    images: Float[Tensor, "*batch h w"], boxes: Float[Tensor, "*batch n 4"]
) -> tuple[Float[Tensor, "*batch h w"], Float[Tensor, "*batch n 4"]]:
    """Mirrors images from left to right, and the windows in them: twice as many objects to train on.

    The authors do so with the faces of the training set, not with the background.

    Args:
        images: grey values, `h` rows of `w` pixels.
        boxes: windows, absolute `(x1, y1, x2, y2)` in pixels, where pixel `i` reaches from `i` to `i + 1`.

    Returns:
        The images and the windows, in the same order. Coordinates of a window beyond the image may be negative.
    """
    x1, y1, x2, y2 = widen(boxes).unbind(-1)
    width = images.shape[-1]
    return widen(images).flip(-1), torch.stack((width - x2, y1, width - x1, y2), -1)


@checked
def majority_vote(passes: Bool[Tensor, "*batch k n"]) -> Bool[Tensor, "*batch n"]:
    """Keeps what more than half of several cascades let pass: a mistake that the others do not make is outvoted.

    The authors train three alike. Their votes go on to `average_overlapping`.

    Args:
        passes: which windows each of the cascades lets pass.

    Returns:
        Which windows are left.
    """
    return 2 * passes.sum(-2) > passes.shape[-2]


@checked
def average_overlapping(
    boxes: Float[Tensor, "*batch n 4"], valid: Bool[Tensor, "*batch n"] | None = None
) -> tuple[Float[Tensor, "*batch n 4"], Bool[Tensor, "*batch n"]]:
    """Makes one detection of all that overlap: each corner is the mean of theirs.

    Two windows that do not overlap still belong together if a chain of overlapping windows links them. No gradient passes through.

    Args:
        boxes: windows that have passed the cascade, absolute `(x1, y1, x2, y2)` in pixels.
        valid: the windows that have; by default all.

    Returns:
        A box for the first window of each set, 0 for the others; and which are the first.
    """
    boxes = widen(boxes.detach())
    valid = torch.ones_like(boxes[..., 0], dtype=torch.bool) if valid is None else valid
    overlap = box_intersection(boxes[..., :, None, :], boxes[..., None, :, :]) > 0
    place = torch.arange(valid.shape[-1], device=boxes.device)
    linked = (overlap | (place == place[:, None])) & valid[..., :, None] & valid[..., None, :]

    def reach_further(linked: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        return (linked.float() @ linked.float()) > 0, linked.clone()

    state = linked, torch.zeros_like(linked)
    if torch.compiler.is_compiling():
        state = while_loop(lambda linked, before: (linked != before).any(), reach_further, state)  # type: ignore[no-untyped-call]
    else:
        for _ in range(len(place).bit_length()):
            state = reach_further(*state)
    together = state[0]
    first = valid & ~together.tril(-1).any(-1)
    total = torch.where(together[..., None], boxes[..., None, :, :], 0).sum(-2)
    mean = safe_divide(total, together.sum(-1, keepdim=True).to(boxes.dtype))
    return mean.where(first[..., None], 0), first


class BoostedCascade(nn.Module):
    r"""A row of boosted classifiers, each with more features than the one before, that look at every window until one rejects it.

    Nearly all windows are background, and nearly all of it differs from an object so plainly that a few features tell. Each stage is
    trained (`fit`) on the objects and on the background that has passed all stages before it, so that the later ones learn from hard
    negatives alone. Its threshold lets nearly every object pass, whatever that costs in false positives: rates multiply along the row.
    Until it is trained, a stage rejects nothing.

    Args:
        size: $s_0$, rows and columns of the window in which the features are learned.
        stages: $K$, number of classifiers at most.
        k: $T$, number of features in each, at most.
        recall: $d$, share of the objects that a stage has to let through.
        false_positives: $f$, share of the background that a stage may let through, of what reaches it.
        overall: $F$, share of all background that may pass the whole cascade; when that is reached, no stages are added.
        negatives: $n$, number of background windows that a stage is trained on, at most.
        step: $r$, ratio of two scales at which an image is searched.
        shift: $\Delta$, pixels from one window to the next, at the first scale.
    """

    rectangle: Tensor
    threshold: Tensor
    weight: Tensor
    bar: Tensor

    def __init__(
        self,
        *,
        size: int = 24,
        stages: int = 38,
        k: int = 50,
        recall: float = 0.99,
        false_positives: float = 0.4,
        overall: float = 0.0,
        negatives: int = 10000,
        step: float = 1.25,
        shift: float = 1.0,
    ) -> None:
        super().__init__()
        self.size, self.recall, self.false_positives, self.overall = size, recall, false_positives, overall
        self.negatives, self.step, self.shift = negatives, step, shift
        self.register_buffer("rectangle", torch.zeros(stages, k, 5, dtype=torch.int64))
        for name in ("threshold", "weight"):
            self.register_buffer(name, torch.zeros(stages, k))
        self.register_buffer("bar", torch.full((stages,), torch.finfo(torch.float32).min))

    @checked
    def forward(
        self, images: Float[Tensor, "b h w"], boxes: Float[Tensor, "b n 4"], valid: Bool[Tensor, "b n"] | None = None
    ) -> tuple[Bool[Tensor, "b n"], Int[Tensor, "b n"]]:
        """Grey images and windows -> which of the valid ones pass, and how many stages each has passed before it was rejected."""
        alive = torch.ones_like(boxes[..., 0], dtype=torch.bool) if valid is None else valid
        passed = torch.zeros_like(alive, dtype=torch.int64)
        for stage in range(len(self.bar)):
            alive = alive & self._passes(stage, images, boxes, self.weight.shape[1])
            passed = passed + alive
        return alive, passed

    @torch.no_grad()
    def fit(
        self,
        images: Float[Tensor, "b h w"],
        boxes: Float[Tensor, "b n 4"],
        positive: Bool[Tensor, "b n"],
        held: Bool[Tensor, "b n"] | None = None,
        noise: Float[Tensor, "b n"] | None = None,
    ) -> Bool[Tensor, "b n"]:
        """Trains one stage after the other, each on what is left of the windows.

        Args:
            images: grey training images.
            boxes: windows, absolute `(x1, y1, x2, y2)` in pixels.
            positive: which of them show an object.
            held: which of them only measure how many pass; by default those that train do.
            noise: uniform in [0, 1); where more background is left than a stage is trained on, the highest are. A fresh draw by default.

        Returns:
            Which windows are left at the end.
        """
        shape = positive.shape
        noise = torch.rand_like(boxes[..., 0]) if noise is None else noise
        rectangles = torch.tensor(_all_rectangles(self.size), device=boxes.device)
        features = torch.cat([rectangle_features(images, boxes, some, size=self.size) for some in torch.split(rectangles, FEATURES)], -1)
        features, positive, noise = features.flatten(0, 1), positive.flatten(), noise.flatten()
        held_out = torch.zeros_like(positive) if held is None else held.flatten()
        measured = ~positive if held is None else ~positive & held_out
        alive = torch.ones_like(positive)
        for stage in range(len(self.bar)):
            used = alive & (positive | held_out | take(noise, alive & ~positive & ~held_out, self.negatives))
            feature, cut, weight, bar = boosted_stage(
                features[used],
                positive[used],
                held=None if held is None else held_out[used],
                k=self.weight.shape[1],
                recall=self.recall,
                false_positives=self.false_positives,
            )
            self.rectangle[stage], self.threshold[stage], self.weight[stage], self.bar[stage] = rectangles[feature], cut, weight, bar
            alive = alive & (boosted_score(features, feature, cut, weight) >= bar)
            if (alive & measured).sum() <= self.overall * measured.sum():
                break
        return alive.view(shape)

    def windows(self, height: int, width: int) -> Float[Tensor, "n 4"]:
        """All windows in which an image of this size is searched, absolute `(x1, y1, x2, y2)` in pixels, the smallest first."""
        found, scale = [torch.zeros(0, 4)], 1.0
        while (side := round(self.size * scale)) <= min(height, width):
            stride = max(1, round(scale * self.shift))
            y, x = torch.meshgrid(torch.arange(0, height - side + 1, stride), torch.arange(0, width - side + 1, stride), indexing="ij")
            corner = torch.stack((x, y), -1).flatten(0, 1).float()
            found.append(torch.cat((corner, corner + side), -1))
            scale *= self.step
        return torch.cat(found).to(self.bar)

    def detect(self, images: Float[Tensor, "b h w"]) -> tuple[Float[Tensor, "b n 4"], Bool[Tensor, "b n"]]:
        """Searches images at all places and scales, and drops what a stage rejects before the next looks at it.

        Args:
            images: grey images.

        Returns:
            Boxes, one for each set of overlapping windows that pass, and which are no padding.
        """
        boxes = self.windows(*images.shape[-2:]).expand(len(images), -1, 4)
        alive = torch.ones_like(boxes[..., 0], dtype=torch.bool)
        for stage in range(len(self.bar)):
            alive = alive & self._passes(stage, images, boxes, int(self.weight[stage].count_nonzero()))
            order = alive.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[:, : int(alive.sum(-1).max())]
            boxes, alive = boxes.gather(1, order[..., None].expand(*order.shape, 4)), alive.gather(1, order)
        return average_overlapping(boxes, alive)

    def _passes(self, stage: int, images: Tensor, boxes: Tensor, k: int) -> Tensor:
        """Which windows a stage lets through by its first `k` features, whatever the other stages say."""
        number = torch.arange(k, device=boxes.device).expand(len(images), k)
        cut, weight = (values[stage, :k].expand(number.shape) for values in (self.threshold, self.weight))
        found = []
        for some in torch.split(boxes, WINDOWS, 1):
            features = rectangle_features(images, some, self.rectangle[stage, :k], size=self.size)
            found.append(boosted_score(features, number, cut, weight) >= self.bar[stage])
        return torch.cat(found, 1)


def _all_rectangles(size: int) -> list[tuple[int, int, int, int, int]]:
    """Every feature that fits into a window, as `rectangle_features` takes it."""
    return [
        (x, y, width, height, kind)
        for kind, (columns, rows) in enumerate(SHAPES)
        for height, width in product(range(1, size // rows + 1), range(1, size // columns + 1))
        for y, x in product(range(size - height * rows + 1), range(size - width * columns + 1))
    ]
