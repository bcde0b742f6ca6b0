"""Guided anchoring: Wang, Chen, Yang, Loy and Lin, CVPR 2019."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad, relu

from reference_impl.ops.boxes import box_area, box_around, box_center, box_size
from reference_impl.ops.checked import checked, require_positive
from reference_impl.ops.deformable import deformable_conv
from reference_impl.ops.layout import per_anchor
from reference_impl.ops.matching import BACKGROUND, IGNORED, best_overlaps
from reference_impl.ops.numerics import safe_divide, safe_log, widen

__all__ = ["GuidedAnchoring", "guided_anchors", "location_loss", "location_targets", "shape_loss", "shape_targets"]

OCTAVE, RATIOS = 3, 3


@checked
def guided_anchors(
    anchors: Float[Tensor, "*batch n 4"],
    shape: Float[Tensor, "*batch n 2"],
    logits: Float[Tensor, "*batch n"],
    *,
    size_std: float = 0.14,
    threshold: float = 0.01,
) -> tuple[Float[Tensor, "*batch n 4"], Bool[Tensor, "*batch n"]]:
    r"""Puts one box of a predicted size at every place, and says at which places an object is likely enough.

    $$ w = \sigma s\, e^{\sigma_w d_w}, \qquad h = \sigma s\, e^{\sigma_w d_h}, \qquad p \ge \epsilon_L $$

    for a place on a level of stride $s$. At inference a place of lower probability $p$ gets no anchor. In training all places do; the
    detector that regresses from the boxes lets no gradient into them.

    Args:
        anchors: squares of side $\sigma s$ around the centre of each place, absolute `(x1, y1, x2, y2)` in pixels.
        shape: $(d_w, d_h)$, as the shape branch predicts them.
        logits: $\mathrm{logit}(p)$, of the centre of an object at this place.
        size_std: $\sigma_w$, unit of $d_w$ and $d_h$.
        threshold: $\epsilon_L$, probability from which on a place has an anchor.

    Returns:
        The anchors of predicted shape, and which of them are there. Coordinates may be negative.
    """
    anchors = widen(anchors)
    size = box_size(anchors) * (size_std * widen(shape)).exp()
    return box_around(box_center(anchors), size), widen(logits).sigmoid() >= threshold


@checked
def location_targets(
    anchors: Float[Tensor, "*#batch n 4"],
    boxes: Float[Tensor, "*#batch m 4"],
    valid: Bool[Tensor, "*#batch m"] | None = None,
    *,
    scale: float = 8.0,
    center_fraction: float = 0.2,
    ignore_fraction: float = 0.5,
) -> tuple[Bool[Tensor, "*#batch n"], Bool[Tensor, "*#batch n"]]:
    r"""Says which places are the centre of an object: those in its middle, on the one level that fits its size.

    $$ l = \left\lfloor \log_2 \frac{\sqrt{wh}}{\sigma s_0} + \frac{1}{2} \right\rfloor $$

    $l$ is that level, counted from the finest as 0, whose stride is $s_0$; $w$ and $h$ are the sides of the object. A larger region around
    the middle counts as neither, and so does the same region on the next finer and the next coarser level, which might see the object just
    as well. A cell of the map belongs to a region that reaches into it, so every object inside the image has a place.

    Args:
        anchors: squares of side $\sigma s$ around the centres of the cells, of all levels together; strides $s$ double from level to level.
        boxes: ground truths, absolute `(x1, y1, x2, y2)` in pixels.
        valid: which of `boxes` are no padding; by default all.
        scale: $\sigma$, side of the squares in strides.
        center_fraction: $\sigma_1$, part of the width and of the height of an object that is its middle.
        ignore_fraction: $\sigma_2$, the same for the region around.

    Returns:
        The places that are a centre, and those that are none. The rest is not trained.
    """
    anchors, boxes = widen(anchors), widen(boxes)
    usable = box_area(boxes) > 0 if valid is None else valid & (box_area(boxes) > 0)
    side = box_size(anchors)[..., 0]
    finest = pad(side, (0, 1), value=math.inf).amin(-1, keepdim=True)
    level = (safe_log(side / finest) / math.log(2)).round()
    size = (safe_log(box_area(boxes)) / 2 - safe_log(finest)) / math.log(2)
    wanted = (size + 0.5).floor().clamp(min=0).minimum(pad(level, (0, 1)).amax(-1, keepdim=True))
    away = level[..., :, None] - wanted[..., None, :]

    gap = box_center(anchors)[..., :, None, :] - box_center(boxes)[..., None, :, :]
    cell = (side / scale / 2)[..., :, None, None]
    extent = box_size(boxes)[..., None, :, :]

    def inside(fraction: float) -> Tensor:
        reach = fraction * extent / 2
        return ((gap + cell > -reach) & (gap - cell <= reach)).all(-1) & usable[..., None, :]

    positive = (inside(center_fraction) & (away == 0)).any(-1)
    near = (inside(ignore_fraction) & (away.abs() <= 1)).any(-1)
    return positive, ~positive & ~near


@checked
def location_loss(
    logits: Float[Tensor, "*batch n"],
    positive: Bool[Tensor, "*batch n"],
    negative: Bool[Tensor, "*batch n"],
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    negative_weight: float = 0.1,
) -> Float[Tensor, "*batch n"]:
    r"""Focal loss of the places, hardly any of which is a centre.

    $$ L_{loc} = \begin{cases} -\alpha\, (1 - p)^\gamma \ln p & \text{centre} \\
    -\lambda_-\, (1 - \alpha)\, p^\gamma \ln (1 - p) & \text{no centre} \end{cases} $$

    The authors divide the sum over all places by a 200th of their number.

    Args:
        logits: $\mathrm{logit}(p)$.
        positive: the places that are a centre.
        negative: the places that are none.
        alpha: $\alpha$, weight of a centre.
        gamma: $\gamma$, how fast a place loses weight as the network grows sure of it.
        negative_weight: $\lambda_-$, what the loss of the places without a centre is multiplied by.

    Returns:
        Loss of each place; 0 for those that are neither.
    """
    logits = widen(logits)
    signed = torch.where(positive, logits, -logits)
    weight = torch.full_like(logits, alpha).where(positive, (1 - alpha) * negative_weight)
    loss = -weight * (gamma * logsigmoid(-signed)).exp() * logsigmoid(signed)
    return loss.where(positive | negative, 0)


@checked
def shape_targets(
    anchors: Float[Tensor, "*#batch n 4"],
    boxes: Float[Tensor, "*#batch m 4"],
    valid: Bool[Tensor, "*#batch m"] | None = None,
    *,
    positive: float = 0.7,
    negative: float = 0.3,
    lowest: float = 0.3,
) -> Int[Tensor, "*#batch n"]:
    r"""Says which ground truth the box at a place should take the shape of, although the box is not there yet.

    $$ \mathrm{vIoU}(a_{wh}, g) = \max_{w, h} \mathrm{IoU}(a_{wh}, g) $$

    In place of the maximum over all shapes $a_{wh}$ at the place, nine are tried: three sizes, up to two thirds of an octave larger than
    the square, with three ratios each.

    Args:
        anchors: squares around the centre of each place, absolute `(x1, y1, x2, y2)` in pixels.
        boxes: ground truths, the same.
        valid: which of `boxes` are no padding; by default all.
        positive: $u_+$, a place with this vIoU or more is assigned to that ground truth.
        negative: $u_-$, a place with less is background; in between it is ignored.
        lowest: $u_0$, the best places of a ground truth are assigned to it from this vIoU on.

    Returns:
        For each place the index of a ground truth, `BACKGROUND` (-1) or `IGNORED` (-2).
    """
    anchors = widen(anchors)
    number = torch.arange(OCTAVE * RATIOS, device=anchors.device)
    octaves = (number // RATIOS).to(anchors.dtype) / OCTAVE
    tilt = (number % RATIOS - RATIOS // 2).to(anchors.dtype) / 2
    factor = torch.stack((octaves - tilt, octaves + tilt), -1).exp2()
    shapes = box_around(box_center(anchors)[..., None, :], box_size(anchors)[..., None, :] * factor)
    found = best_overlaps(shapes.flatten(-3, -2), boxes, valid, lowest=lowest)

    iou, truth, is_best = (x.view(*x.shape[:-1], anchors.shape[-2], OCTAVE * RATIOS) for x in found[:3])
    highest, which = iou.max(-1)
    own = truth.gather(-1, which[..., None]).squeeze(-1)
    assigned = (highest >= positive) | is_best.any(-1)
    return torch.where(assigned, own, torch.where(highest < negative, BACKGROUND, IGNORED))


@checked
def shape_loss(pred: Float[Tensor, "*batch n 4"], target: Float[Tensor, "*batch n 4"], *, beta: float = 0.2) -> Float[Tensor, "*batch n"]:
    r"""Compares only width and height, as the shape branch does not choose where the box is.

    $$ L_{shape} = L1_\text{smooth}\left(1 - \min\left(\frac{w}{w_g}, \frac{w_g}{w}\right)\right)
    + L1_\text{smooth}\left(1 - \min\left(\frac{h}{h_g}, \frac{h_g}{h}\right)\right) $$

    The parts of bounded IoU loss (survey, Eqs. 15 and 17) that depend on the size. With the authors' $\beta$, smooth L1 is a half square up
    to there, divided by $\beta$, and linear beyond.

    Args:
        pred: the anchors of predicted shape, absolute `(x1, y1, x2, y2)` in pixels.
        target: the ground truth that each is assigned to.
        beta: $\beta > 0$, where smooth L1 turns linear.

    Returns:
        Loss of each pair, in [0, 2 - `beta`].

    Raises:
        ValueError: the shapes differ, or `beta` is not positive.
    """
    require_positive("shape_loss", beta=beta)
    size, wanted = box_size(widen(pred)), box_size(widen(target))
    error = 1 - safe_divide(torch.minimum(size, wanted), torch.maximum(size, wanted))
    return torch.where(error < beta, error.square() / (2 * beta), error - beta / 2).sum(-1)


class GuidedAnchoring(nn.Module):
    r"""Where anchors are, what shape they have, and what a detector sees there: the branches of one level, shared by all.

    Each place has another shape of anchor, so a 3x3 convolution would see more than the box at one place and less at the next. The taps of
    the deformable convolution are moved by what a 1x1 convolution makes of the shape alone. The shape branch learns nothing from that.

    Args:
        channels: of the features.
        classes: outputs of the classifier for each anchor; 1 in a proposal network.
        width: $n$, channels of the adapted features.
        groups: $G$, how many groups of channels have offsets of their own.
        prior: $\pi$, probability of a centre, and of an object, at the start.
    """

    def __init__(self, channels: int, classes: int = 1, *, width: int = 256, groups: int = 4, prior: float = 0.01) -> None:
        super().__init__()
        self.location = nn.Conv2d(channels, 1, 1)
        self.shape = nn.Conv2d(channels, 2, 1)
        self.offsets = nn.Conv2d(2, groups * 2 * 9, 1, bias=False)
        self.adapt = nn.Parameter(torch.empty(width, channels, 3, 3))
        self.classify = nn.Conv2d(width, classes, 1)
        self.regress = nn.Conv2d(width, 4, 1)
        nn.init.normal_(self.adapt, std=0.01)
        nn.init.normal_(self.offsets.weight, std=0.1)
        for layer in (self.location, self.shape, self.classify, self.regress):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.constant_(layer.bias, math.log(prior) - math.log1p(-prior) if layer in (self.location, self.classify) else 0.0)

    @checked
    def forward(
        self, features: Float[Tensor, "b channels h w"]
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n 2"], Float[Tensor, "b n c"], Float[Tensor, "b n 4"]]:
        """Features -> logits of a centre and shape of each place, row by row, and logits and deltas of the anchor there."""
        location, shape = self.location(features), self.shape(features)
        adapted = relu(deformable_conv(features, self.offsets(shape.detach()), self.adapt, padding=1))
        rows = (per_anchor(x, anchors=1) for x in (location, shape, self.classify(adapted), self.regress(adapted)))
        logits_of_centers, shape, logits, deltas = rows
        return logits_of_centers.squeeze(-1), shape, logits, deltas
