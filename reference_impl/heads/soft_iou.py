"""Soft-IoU layer and EM merger: Goldman, Herzig, Eisenschtat, Goldberger and Hassner, CVPR 2019."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop
from torch.nn.functional import pad, softplus

from reference_impl.ops.boxes import box_around, box_center, box_iou, box_size
from reference_impl.ops.checked import checked
from reference_impl.ops.components import connected_components
from reference_impl.ops.layout import per_anchor
from reference_impl.ops.numerics import safe_divide, widen
from reference_impl.ops.repeat import repeated
from reference_impl.ops.select import closest_pair

__all__ = [
    "SoftIoU",
    "agglomerative_clusters",
    "detection_groups",
    "detection_heat",
    "distinct_gaussians",
    "em_merger",
    "merged_boxes",
    "soft_iou_loss",
    "soft_iou_score",
]

SMALLEST_WEIGHT, SMALLEST_VARIANCE = 1e-12, 1e-6


class SoftIoU(nn.Module):
    """A third branch beside classes and boxes, which predicts how well the predicted box fits.

    The tower is that of the other two branches of RetinaNet, four layers and one more. The authors train it last, everything else frozen.

    Args:
        channels: of the features.
        anchors: number of anchors at a location.
        width: $n$, channels of the tower.
    """

    def __init__(self, channels: int, anchors: int, *, width: int = 256) -> None:
        super().__init__()
        self.anchors = anchors
        self.tower = nn.ModuleList(nn.Conv2d(channels if i == 0 else width, width, 3, padding=1) for i in range(4))
        self.last = nn.Conv2d(width, anchors, 3, padding=1)
        for layer in (*self.tower, self.last):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    @checked
    def forward(self, features: Float[Tensor, "b channels h w"]) -> Float[Tensor, "b n"]:
        """Features of a level -> a logit of the IoU for each anchor, row by row."""
        for layer in self.tower:
            features = layer(features).relu()
        return per_anchor(self.last(features), anchors=self.anchors).squeeze(-1)


@checked
def soft_iou_loss(
    logits: Float[Tensor, "*batch n"],
    pred: Float[Tensor, "*batch n 4"],
    target: Float[Tensor, "*batch n 4"],
    valid: Bool[Tensor, "*batch n"] | None = None,
) -> Float[Tensor, "*batch n"]:
    r"""Trains the estimate on the IoU that the predicted box has.

    $$ L = \mathrm{BCE}(\sigma(x), \mathrm{IoU}(B, \bar B)) $$

    The authors average it over the positives whose class score exceeds 0.1. No gradient passes to the boxes.

    Args:
        logits: $x$.
        pred: predicted boxes $B$, absolute `(x1, y1, x2, y2)` in pixels.
        target: ground truth $\bar B$ of each.
        valid: the boxes that have one; by default all.

    Returns:
        One loss for each box, not 0 at its minimum unless the IoU is 0 or 1.
    """
    logits = widen(logits)
    iou = box_iou(widen(pred.detach()), widen(target.detach())).to(logits.dtype)
    loss = softplus(logits) - iou * logits
    return loss if valid is None else torch.where(valid, loss, 0)


@checked
def soft_iou_score(score: Float[Tensor, "*batch n"], logits: Float[Tensor, "*batch n"], *, share: float = 0.5) -> Float[Tensor, "*batch n"]:
    r"""The quality of a detection at inference: a mean of its class score and its estimated IoU.

    $$ \alpha s + (1 - \alpha)\,\sigma(x) $$

    Args:
        score: $s$, of the class, in [0, 1].
        logits: $x$ of the IoU.
        share: $\alpha$, what the class counts, in [0, 1].

    Returns:
        The quality of each detection, in [0, 1].
    """
    return share * widen(score) + (1 - share) * widen(logits).sigmoid()


@checked
def detection_heat(
    image: Float[Tensor, "*batch c h w"],
    boxes: Float[Tensor, "*batch n 4"],
    score: Float[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    spread: float = 0.5,
) -> Float[Tensor, "*batch h w"]:
    r"""Draws all detections into one map of the image, each as a bump that is as high as its score.

    $$ \sum_i s_i \frac{e^{-(u_i^2 + v_i^2) / 2} - e^{-1}}{1 - e^{-1}} \quad \text{where } |u_i|, |v_i| \le 1 $$

    $u_i$ and $v_i$ say where a pixel lies in the middle part of the box, from -1 at its left or upper side to 1. So the bump is a Gaussian
    with half of that part's width and height as standard deviations, less its value in the corners. No gradient passes through.

    Args:
        image: only its shape and dtype count.
        boxes: detections, absolute `(x1, y1, x2, y2)` in pixels.
        score: quality $s$ of each, in [0, 1].
        valid: the detections that are no padding; by default all.
        spread: $r$, the part of the box's width and height that counts as its own.

    Returns:
        The map, at the centres of the pixels.
    """
    boxes, height = boxes.detach().double(), score.detach().double()
    if valid is not None:
        height = height * valid
    center, half = box_center(boxes), box_size(boxes) * spread / 2
    bumps, insides = [], []
    for axis, pixels in ((1, image.shape[-2]), (0, image.shape[-1])):
        away = torch.arange(pixels, device=boxes.device) + 0.5 - center[..., axis, None]
        inside = (away.abs() < half[..., axis, None]).double()
        insides.append(inside)
        bumps.append(inside * (-safe_divide(away, half[..., axis, None]).square() / 2).exp())
    edge = math.exp(-1)
    down = torch.cat((bumps[0], -edge * insides[0]), -2) * torch.cat((height, height), -1)[..., None]
    return (down.mT @ torch.cat((bumps[1], insides[1]), -2) / (1 - edge)).to(widen(image).dtype)


@checked
def detection_groups(
    heat: Float[Tensor, "*batch h w"],
    boxes: Float[Tensor, "*batch n 4"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    spread: float = 0.5,
    lowest: float = 4.5 / 255,
    most: int = 100,
) -> tuple[Int[Tensor, "*batch n"], Int[Tensor, "*batch n"]]:
    r"""Splits a crowd into groups that do not touch, and estimates how many objects each of them is.

    $$ \mathrm{round}\!\left(\frac{A}{\mathrm{median}_i\, r^2 w_i h_i}\right) $$

    A group is a connected area of the heat map, $A$ the number of its pixels, and its detections are those whose centres lie in it. Each
    group is then a crowd of its own for `agglomerative_clusters` and `em_merger`, with the others as padding. No gradient passes through.

    Args:
        heat: what `detection_heat` has drawn.
        boxes: detections, absolute `(x1, y1, x2, y2)` in pixels; widths and heights $w$, $h$.
        valid: the detections that are no padding; by default all.
        spread: the part $r$ of a box that counts as its own, in both directions.
        lowest: $\tau$, what is lower than this part of the highest heat belongs to no group.
        most: $K$, number of objects of a group, at most.

    Returns:
        For each detection the index of the first one of its group, its own if it is in none; and the number of objects, from 1, of the
        group that begins with it, 0 if none does.
    """
    heat, boxes = widen(heat.detach()), widen(boxes.detach())
    label = connected_components(heat > lowest * pad(heat.flatten(-2), (0, 1)).amax(-1)[..., None, None])
    own = _at(label, box_center(boxes), -1)
    alike = (own[..., :, None] == own[..., None, :]) & (own >= 0)[..., None]
    if valid is not None:
        alike = alike & valid[..., :, None] & valid[..., None, :]
    place = torch.arange(own.shape[-1], device=boxes.device)
    group = torch.where(alike.any(-1), (alike.cumsum(-1) == 0).sum(-1), place)
    pixels = torch.zeros_like(label).flatten(-2).scatter_add(-1, label.flatten(-2).clamp(min=0), (label >= 0).long().flatten(-2))
    area = pad(pixels, (0, 1)).gather(-1, own % (pixels.shape[-1] + 1)).to(boxes.dtype)
    typical = _median(box_size(boxes).prod(-1, keepdim=True) * spread**2, alike).squeeze(-1)
    objects = safe_divide(area, typical).round().clamp(1, most).long()
    return group, torch.where(alike.any(-1) & (group == place), objects, 0)


@checked
def agglomerative_clusters(
    boxes: Float[Tensor, "*batch n 4"],
    score: Float[Tensor, "*batch n"],
    count: Int[Tensor, "*batch"],
    valid: Bool[Tensor, "*batch n"] | None = None,
) -> Int[Tensor, "*batch n"]:
    r"""Where `em_merger` starts: joins the two clusters whose centres are nearest, until as many are left as there are objects.

    The centre of a cluster is that of its boxes, weighted by their scores. As many rounds as boxes, each of which compares all clusters:
    split a crowded image into groups that do not touch. No gradient passes through.

    Args:
        boxes: detections, absolute `(x1, y1, x2, y2)` in pixels.
        score: quality of each, in [0, 1].
        count: number of objects, at least 1.
        valid: the detections that are no padding; by default all.

    Returns:
        For each detection the index of the first one in its cluster; its own if it is not valid.
    """
    center, weight = box_center(widen(boxes.detach())), widen(score.detach()).clamp(min=SMALLEST_WEIGHT)
    active = torch.ones_like(weight, dtype=torch.bool) if valid is None else valid
    n = weight.shape[-1]
    place = torch.arange(n, device=boxes.device)

    def merge(center: Tensor, weight: Tensor, cluster: Tensor, active: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        distance = (center[..., :, None, :] - center[..., None, :, :]).square().sum(-1)
        earlier, later, _ = closest_pair(distance, active)
        goes_on = active.sum(-1, keepdim=True) > count[..., None].clamp(min=1)
        first, second = (place == earlier) & goes_on, (place == later) & goes_on
        both = (weight * (first | second))[..., None]
        middle = (both * center).sum(-2, keepdim=True) / both.sum(-2, keepdim=True).clamp(min=SMALLEST_WEIGHT)
        joined = goes_on & (cluster == later)
        return (
            torch.where(first[..., None], middle, center),
            torch.where(first, both.sum((-2, -1)).unsqueeze(-1), weight),
            torch.where(joined, earlier, cluster),
            active & ~second,
        )

    state = center, weight, place.expand_as(active).clone(), active.clone()
    if n < 2:
        return state[2]
    if torch.compiler.is_compiling():
        goal = count[..., None].clamp(min=1)
        state = while_loop(lambda c, w, k, active: (active.sum(-1, keepdim=True) > goal).any(), merge, state)  # type: ignore[no-untyped-call]
    else:
        for _ in range(n - 1):
            state = merge(*state)
    return state[2]


@checked
def em_merger(
    boxes: Float[Tensor, "*batch n 4"],
    score: Float[Tensor, "*batch n"],
    cluster: Int[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    spread: float = 0.5,
    iterations: int = 20,
) -> tuple[Int[Tensor, "*batch n"], Float[Tensor, "*batch n"], Float[Tensor, "*batch n 2"], Float[Tensor, "*batch n 2"]]:
    r"""Reduces a crowd of detections to one Gaussian for each object, by what they overlap and not by which of them is best.

    A detection is a Gaussian $f_i$ around its centre, with a standard deviation of `spread` times half its width and height, and has the
    share $\alpha_i$ of the scores. Sought are fewer Gaussians $g_j$ with the least

    $$ \sum_i \alpha_i \min_j \mathrm{KL}(f_i \,\|\, g_j) $$

    Two steps alternate: each detection goes to the Gaussian that is nearest by this measure, then each Gaussian takes share, mean and
    variance of the mixture of its detections. Axes are independent. No gradient passes through.

    Args:
        boxes: detections, absolute `(x1, y1, x2, y2)` in pixels.
        score: quality of each, in [0, 1].
        cluster: the Gaussian that each belongs to at first, 0 to n - 1, as from `agglomerative_clusters`. Numbers that do not occur are no
            Gaussians.
        valid: the detections that are no padding; by default all.
        spread: $r$, the part of a box that counts as its own.
        iterations: $T$, how often the two steps are taken.

    Returns:
        For each detection the number of its Gaussian, at last; then for each number the share, mean (x, y) and variance (x, y). The share
        is 0 where no detection is left, or where none ever was.
    """
    boxes = widen(boxes.detach())
    mean, variance = box_center(boxes), (box_size(boxes) * spread / 2).square().clamp(min=SMALLEST_VARIANCE)
    weight = widen(score.detach()).clamp(min=SMALLEST_WEIGHT)
    if valid is not None:
        weight = weight * valid
    weight = safe_divide(weight, weight.sum(-1, keepdim=True))
    place = torch.arange(weight.shape[-1], device=boxes.device)

    state = cluster.long().clone(), *_moments(mean, variance, weight, cluster, torch.zeros_like(mean), torch.ones_like(variance))
    exists = (state[1] > 0)[..., None]

    def both_steps(cluster: Tensor, share: Tensor, center: Tensor, extent: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        log_ratio = extent.log()[..., None, :, :] - variance.log()[..., :, None, :]
        reach = variance[..., :, None, :] + (mean[..., :, None, :] - center[..., None, :, :]).square()
        divergence = (log_ratio + reach / extent[..., None, :, :]).sum(-1)
        cluster = torch.where(exists[..., None, :, 0], divergence, torch.inf).argmin(-1)
        return cluster, *_moments(mean, variance, weight, cluster, center, extent)

    cluster, share, center, extent = repeated(both_steps, state, iterations if len(place) else 0)
    return cluster, share, torch.where(exists, center, 0), torch.where(exists, extent, 0)


@checked
def distinct_gaussians(
    heat: Float[Tensor, "*batch h w"],
    mean: Float[Tensor, "*batch m 2"],
    variance: Float[Tensor, "*batch m 2"],
    present: Bool[Tensor, "*batch m"],
    *,
    mass: float = 0.5,
    smallest: float = 5.0,
) -> Bool[Tensor, "*batch m"]:
    r"""Drops Gaussians that share an object with another one, which happens where more were asked for than there are objects.

    Of a pair whose ellipses overlap, the one is dropped whose centre lies where the heat is lower. The pairs that overlap most are judged
    first, and before all others those in which the centre of one lies in the ellipse of the other. An ellipse holds the part $q$ of its
    Gaussian. Two of them overlap if the gap between them, in pixels on the line of length $d$ from centre to centre, is negative:

    $$ d\left(1 - \frac{c}{u} - \frac{c}{v}\right) < 0, \qquad c = \sqrt{-2 \ln(1 - q)} $$

    where $u$ and $v$ are $d$ in standard deviations of the one and of the other. No gradient passes through.

    Args:
        heat: what `detection_heat` has drawn.
        mean: of the Gaussians of `em_merger`.
        variance: of them.
        present: which of them there are, those with a share.
        mass: $q$ in (0, 1).
        smallest: $b$, a Gaussian is dropped as well if it is at most this wide or high, in pixels, measured over two standard deviations to
            either side.

    Returns:
        Which of them stay.

    Raises:
        ValueError: `mass` is not between 0 and 1.
    """
    if not 0 < mass < 1:
        raise ValueError(f"distinct_gaussians: expected a mass between 0 and 1, got {mass}")
    mean, variance = widen(mean.detach()), widen(variance.detach()).clamp(min=SMALLEST_VARIANCE)
    warmth = _at(widen(heat.detach()), mean, 0)
    away = (mean[..., :, None, :] - mean[..., None, :, :]).square()
    apart = (away / variance[..., None, :, :]).sum(-1).sqrt()
    reach = torch.full_like(apart, math.sqrt(-2 * math.log1p(-mass)))
    gap = away.sum(-1).sqrt() * (1 - safe_divide(reach, apart) - safe_divide(reach, apart.mT))
    gap = gap.masked_fill(torch.minimum(apart, apart.mT) <= reach, -torch.inf)
    place = torch.arange(mean.shape[-2], device=mean.device)

    def drop_one(left: Tensor) -> Tensor:
        earlier, later, least = closest_pair(gap, left)
        colder = torch.where(warmth.gather(-1, later) < warmth.gather(-1, earlier), later, earlier)
        return left & ~((place == colder) & (least < 0))

    left = present.clone()
    if torch.compiler.is_compiling() and len(place) > 1:
        (left,) = while_loop(lambda left: (closest_pair(gap, left)[2] < 0).any(), lambda left: (drop_one(left),), (left,))  # type: ignore[no-untyped-call]
    else:
        for _ in range(len(place) - 1):
            left = drop_one(left)
    return left & (4 * variance.sqrt() > smallest).all(-1)


@checked
def merged_boxes(
    boxes: Float[Tensor, "*batch n 4"],
    score: Float[Tensor, "*batch n"],
    mean: Float[Tensor, "*batch m 2"],
    variance: Float[Tensor, "*batch m 2"],
    present: Bool[Tensor, "*batch m"],
    valid: Bool[Tensor, "*batch n"] | None = None,
) -> tuple[Float[Tensor, "*batch m 4"], Float[Tensor, "*batch m"], Bool[Tensor, "*batch m"]]:
    r"""One box for each Gaussian: the medians of centre, width and height of the detections that it gathers.

    $$ |x_i - \mu_x| \le 2\sigma_x, \qquad |y_i - \mu_y| \le 2\sigma_y $$

    A detection whose centre lies within two standard deviations of several Gaussians belongs to the first of them. The authors' code then
    suppresses boxes that still cover each other by more than 0.3. No gradient passes through.

    Args:
        boxes: detections, absolute `(x1, y1, x2, y2)` in pixels.
        score: quality of each, in [0, 1].
        mean: $\mu$ of the Gaussians of `em_merger`.
        variance: $\sigma^2$ of them.
        present: which of them there are, those with a share.
        valid: the detections that are no padding; by default all.

    Returns:
        For each Gaussian the box, the highest score that it gathers, and whether it gathers any detection; box and score are 0 if not.
    """
    boxes, score, mean, variance = (widen(x.detach()) for x in (boxes, score, mean, variance))
    center, size = box_center(boxes), box_size(boxes)
    within = ((center[..., None, :, :] - mean[..., :, None, :]).square() <= 4 * variance[..., :, None, :]).all(-1) & present[..., None]
    if valid is not None:
        within = within & valid[..., None, :]
    gathered = within & (within.cumsum(-2) == 1)
    found = gathered.any(-1)
    middle = _median(torch.cat((center, size), -1), gathered)
    box = box_around(middle[..., :2], middle[..., 2:])
    best = pad(torch.where(gathered, score[..., None, :], 0), (0, 1)).amax(-1)
    return torch.where(found[..., None], box, 0), best, found


def _at(maps: Tensor, points: Tensor, beyond: int) -> Tensor:
    """The value of the pixel in which each point `[*batch n 2]` lies, and `beyond` outside of the map `[*batch h w]`."""
    height, width = maps.shape[-2:]
    x, y = points.floor().unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = torch.where(inside, y * width + x, height * width).long()
    return pad(maps.flatten(-2), (0, 1), value=beyond).gather(-1, index)


def _moments(
    mean: Tensor, variance: Tensor, weight: Tensor, cluster: Tensor, old_center: Tensor, old_extent: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Share, mean and variance of each cluster's mixture; the old ones where it has no share."""
    belongs = cluster[..., :, None] == torch.arange(weight.shape[-1], device=weight.device)
    part = (weight[..., None] * belongs)[..., None]
    share = part.sum(-3)
    center = safe_divide((part * mean[..., :, None, :]).sum(-3), share)
    around = variance[..., :, None, :] + (mean[..., :, None, :] - center[..., None, :, :]).square()
    extent = safe_divide((part * around).sum(-3), share)
    return share.squeeze(-1), torch.where(share > 0, center, old_center), torch.where(share > 0, extent, old_extent)


def _median(value: Tensor, among: Tensor) -> Tensor:
    """The median of each column of `[n k]` over the rows of each set of `[m n]`; anything where a set is empty."""
    ordered = torch.where(among[..., None], value[..., None, :, :], torch.inf).sort(dim=-2).values
    ordered = pad(ordered, (0, 0, 0, 1))
    count = among.sum(-1)
    low, high = ((count - step).clamp(min=0) // 2 for step in (1, 0))
    pair = torch.stack((low, high), -1)[..., None].expand(*low.shape, 2, value.shape[-1])
    return ordered.gather(-2, pair).mean(-2)
