"""Soft-IoU layer and EM merger: Goldman, Herzig, Eisenschtat, Goldberger and Hassner, CVPR 2019."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop
from torch.nn.functional import pad, softplus

from reference_impl.ops.boxes import box_center, box_iou, box_size
from reference_impl.ops.checked import checked
from reference_impl.ops.layout import per_anchor
from reference_impl.ops.numerics import safe_divide, widen
from reference_impl.ops.select import closest_pair

__all__ = ["SoftIoU", "agglomerative_clusters", "em_merger", "merged_boxes", "soft_iou_loss", "soft_iou_score"]

SMALLEST_WEIGHT, SMALLEST_VARIANCE = 1e-12, 1e-6


class SoftIoU(nn.Module):
    """A third branch beside classes and boxes: how well will the box fit that is predicted here?

    The tower is that of the other two branches of RetinaNet, four layers and one more. The authors train it last, everything else frozen.

    Args:
        channels: of the features.
        anchors: number of anchors at a location.
        width: channels of the tower.
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
    r"""What a detection counts at inference: its class and its fit.

    $$ \alpha s + (1 - \alpha)\,\sigma(x) $$

    Args:
        score: $s$, of the class, in [0, 1].
        logits: $x$ of the IoU.
        share: $\alpha$ of the class.

    Returns:
        The quality of each detection, in [0, 1].
    """
    return share * widen(score) + (1 - share) * widen(logits).sigmoid()


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

    In turn, each detection goes to the Gaussian that is nearest by this measure, and each Gaussian takes over share, mean and variance of
    the mixture of its detections. Axes are independent. No gradient passes through.

    Args:
        boxes: detections, absolute `(x1, y1, x2, y2)` in pixels.
        score: quality of each, in [0, 1].
        cluster: the Gaussian that each belongs to at first, 0 to n - 1, as from `agglomerative_clusters`. Numbers that do not occur are no
            Gaussians.
        valid: the detections that are no padding; by default all.
        spread: the part of a box that counts as its own.
        iterations: how often both steps are taken.

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

    if torch.compiler.is_compiling() and len(place):
        counted = torch.zeros((), dtype=torch.int64, device=boxes.device), *state
        steps = while_loop(lambda k, *_: k < iterations, lambda k, *now: (k + 1, *both_steps(*now)), counted)  # type: ignore[no-untyped-call]
        state = steps[1:]
    else:
        for _ in range(iterations if len(place) else 0):
            state = both_steps(*state)
    cluster, share, center, extent = state
    return cluster, share, torch.where(exists, center, 0), torch.where(exists, extent, 0)


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
    box = torch.cat((middle[..., :2] - middle[..., 2:] / 2, middle[..., :2] + middle[..., 2:] / 2), -1)
    best = pad(torch.where(gathered, score[..., None, :], 0), (0, 1)).amax(-1)
    return torch.where(found[..., None], box, 0), best, found


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
