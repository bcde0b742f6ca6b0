"""IoU-Net: Jiang, Luo, Mao, Xiao and Jiang, ECCV 2018."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad, relu, smooth_l1_loss

from reference_impl.ops.boxes import box_area, box_iou, box_size, decode_deltas
from reference_impl.ops.checked import checked
from reference_impl.ops.levels import check_levels
from reference_impl.ops.nms import nms
from reference_impl.ops.numerics import safe_divide, widen
from reference_impl.ops.ranks import descending_rank
from reference_impl.ops.repeat import repeated
from reference_impl.ops.roi_align import precise_roi_pool_levels

__all__ = ["IoUNet", "iou_guided_nms", "iou_net_loss", "uniform_iou_boxes"]

FARTHEST, HALVINGS = 2.0, 40


@checked
def uniform_iou_boxes(
    boxes: Float[Tensor, "*batch n 4"], noise: Float[Tensor, "*batch n 5"] | None = None, *, lowest: float = 0.5
) -> Float[Tensor, "*batch n 4"]:
    r"""Training samples of the branch: ground truths, moved and stretched until they have the IoU that was drawn, uniformly.

    $$ b(t) = \bigl(x + t\,d_x w,\; y + t\,d_y h,\; w e^{t d_w},\; h e^{t d_h}\bigr), \qquad
    \mathrm{IoU}(b(t), g) = u, \qquad u \sim U(u_{\min}, 1) $$

    The direction $d$ is drawn in a cube, and the distance $t$ along it is found by halving an interval. The proposals of the detector are
    not used: few of them lie well, so the branch would learn little about those that matter. No gradient passes through.

    Args:
        boxes: ground truths $g$, each repeated once for every sample wanted of it; absolute `(x1, y1, x2, y2)` in pixels.
        noise: uniform in [0, 1), four for the direction and one for the IoU; a fresh draw by default.
        lowest: $u_{\min}$, in [0.14, 1].

    Returns:
        One box for each, which may reach beyond the image.
    """
    boxes = widen(boxes.detach())
    noise = boxes.new_empty(*boxes.shape[:-1], 5).uniform_() if noise is None else widen(noise).to(boxes.dtype)
    direction = 2 * noise[..., :4] - 1
    direction = safe_divide(direction, direction.abs().amax(-1, keepdim=True).expand_as(direction))
    wanted = lowest + (1 - lowest) * noise[..., 4]

    def halve(near: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
        middle = (near + far) / 2
        enough = box_iou(decode_deltas(middle[..., None] * direction, boxes), boxes) >= wanted
        return torch.where(enough, middle, near), torch.where(enough, far, middle)

    near, _ = repeated(halve, (torch.zeros_like(wanted), torch.full_like(wanted, FARTHEST)), HALVINGS)
    return decode_deltas(near[..., None] * direction, boxes)


@checked
def iou_net_loss(
    pred: Float[Tensor, "*batch n c"],
    iou: Float[Tensor, "*batch n"],
    labels: Int[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
) -> Float[Tensor, "*batch n"]:
    r"""Pulls the IoU that is predicted for the box's own class towards the true one, after both are stretched from [0, 1] to [-1, 1].

    $$ L = \mathrm{smooth}_{L_1}\bigl((2 p_y - 1) - (2\,\mathrm{IoU} - 1)\bigr) $$

    The mean over boxes is taken by the caller. The predictions for other classes learn nothing.

    Args:
        pred: $p$, predicted IoU for each class.
        iou: of each box with its ground truth, in [0, 1].
        labels: class $y$ of the ground truth; `c` is background and costs nothing.
        valid: the boxes that count; by default all.

    Returns:
        Loss of each box.
    """
    pred, iou = widen(pred), widen(iou)
    own = pad(pred, (0, 1)).gather(-1, labels[..., None]).squeeze(-1)
    loss = smooth_l1_loss(2 * own - 1, 2 * iou - 1, reduction="none")
    counted = labels < pred.shape[-1]
    return loss.where(counted if valid is None else counted & valid, 0)


@checked
def iou_guided_nms(
    scores: Float[Tensor, "*batch n"],
    iou: Float[Tensor, "*batch n"],
    boxes: Float[Tensor, "*batch n 4"],
    labels: Int[Tensor, "*batch n"] | None = None,
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    threshold: float = 0.5,
    limit: int = 100,
) -> tuple[Bool[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    r"""Suppression that keeps the box with the highest predicted IoU, and gives it the highest class score of its group.

    $$ s_i \leftarrow \max_{j \in G_i} s_j, \qquad G_i = \{i\} \cup \{j : \mathrm{IoU}(b_i, b_j) > \Omega\} $$

    A box that overlaps two kept ones too much belongs to the group of the one that was kept first.

    Args:
        scores: $s$, of the class.
        iou: predicted IoU, by which boxes are ranked.
        boxes: absolute `(x1, y1, x2, y2)` in pixels.
        labels: boxes of different classes do not discard each other; by default all are of one.
        valid: the boxes that take part; by default all.
        threshold: $\Omega$, IoU above which a box is discarded.
        limit: $D$, how many are kept at most.

    Returns:
        Whether each box is kept, and its new score; 0 if it is not.
    """
    scores, boxes = widen(scores), widen(boxes.detach())
    kept = nms(boxes, iou, valid, labels, limit=limit, threshold=threshold)
    joined = box_iou(boxes[..., :, None, :], boxes[..., None, :, :]) > threshold
    if labels is not None:
        joined = joined & (labels[..., :, None] == labels[..., None, :])
    joined = joined & kept[..., None, :]
    count = scores.shape[-1]
    rank = torch.where(joined, descending_rank(iou)[..., None, :], count)
    own = torch.arange(count, device=scores.device)
    first = rank.argmin(-1) if count else own.expand(scores.shape)
    owner = torch.where(kept | ~joined.any(-1), own, first)
    takes_part = torch.ones_like(kept) if valid is None else valid
    best = torch.zeros_like(scores).scatter_reduce(-1, owner, scores.where(takes_part, 0), "amax")
    return kept, best.where(kept, 0)


class IoUNet(nn.Module):
    r"""A branch beside classifier and regressor that predicts the IoU of any box with its object; moving the box can raise it.

    $$ p(b) = \tfrac12 \bigl(1 + W_3\, \mathrm{relu}(W_2\, \mathrm{relu}(W_1\, \mathrm{PrPool}(P, b)))\bigr), \qquad
    b \leftarrow b + \lambda\, \frac{\partial p_y(b)}{\partial b} \odot (w, h, w, h) $$

    The features are pooled by an exact integral, so that the prediction has a gradient with respect to the box (`refine`).

    Args:
        channels: of every level.
        classes: number of foreground classes; each has a prediction of its own.
        width: $n$ of the two fully connected layers.
        size: $m$, cells along each side of the pooled features.
        scale: $r$, size of the finest feature map relative to the image.
        finest_size: $s_1$, side of a square from which on boxes are pooled from the second level; from twice that on from the third, and so
            on.
    """

    def __init__(
        self, channels: int, classes: int, *, width: int = 1024, size: int = 7, scale: float = 0.25, finest_size: float = 112.0
    ) -> None:
        super().__init__()
        self.channels, self.size, self.scale, self.finest_size = channels, size, scale, finest_size
        self.hidden = nn.ModuleList((nn.Linear(channels * size**2, width), nn.Linear(width, width)))
        self.predict = nn.Linear(width, classes)
        for layer in (*self.hidden, self.predict):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.predict.weight, std=0.01)

    @checked
    def forward(self, levels: Sequence[Tensor], proposals: Float[Tensor, "b n 4"]) -> Float[Tensor, "b n c"]:
        """Feature maps and boxes -> predicted IoU of each box for each class; nothing confines it to [0, 1].

        Args:
            levels: feature maps `[b channels h_i w_i]`, finest first, each half as fine as the one before. One alone will do.
            proposals: absolute `(x1, y1, x2, y2)` in pixels. They have a gradient.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: channels or order of the levels, or the shape of the boxes does not fit.
        """
        check_levels("IoUNet", levels, [self.channels] * len(levels))
        doublings = (2 * box_area(proposals.detach()).sqrt() / self.finest_size).clamp(min=1).log2()
        level = doublings.long().clamp(max=len(levels) - 1)
        scales = [self.scale / 2**i for i in range(len(levels))]
        hidden = precise_roi_pool_levels(levels, proposals, level, scales=scales, size=self.size).flatten(2)
        for layer in self.hidden:
            hidden = relu(layer(hidden))
        pred: Tensor = (1 + self.predict(hidden)) / 2
        return pred

    @torch.enable_grad()
    def refine(
        self,
        levels: Sequence[Tensor],
        proposals: Float[Tensor, "b n 4"],
        labels: Int[Tensor, "b n"],
        *,
        steps: int = 5,
        rate: float = 0.5,
        least_change: float = 0.001,
        largest_loss: float = 0.01,
    ) -> Float[Tensor, "b n 4"]:
        r"""Boxes at inference, moved uphill on the IoU that is predicted for their class.

        A box stops after the step that changes the prediction by less than `least_change`, or lowers it by more than `largest_loss`.

        Args:
            levels: as for `forward`.
            proposals: detected boxes, absolute `(x1, y1, x2, y2)` in pixels.
            labels: their classes.
            steps: how many steps are taken at most.
            rate: $\lambda$, length of a step in units of gradient times size of the box.
            least_change: change of the prediction that is needed for a further step.
            largest_loss: fall of the prediction up to which a further step is taken.

        Returns:
            The boxes, without gradient.
        """
        levels, boxes = [x.detach() for x in levels], proposals.detach().requires_grad_()
        moving = torch.ones_like(labels, dtype=torch.bool)
        before = self(levels, boxes).gather(-1, labels[..., None]).squeeze(-1)
        for _ in range(steps):
            (slope,) = torch.autograd.grad(before.sum(), boxes)
            moved = boxes + rate * slope * box_size(boxes).repeat(1, 1, 2)
            boxes = torch.where(moving[..., None], moved, boxes).detach().requires_grad_()
            after = self(levels, boxes).gather(-1, labels[..., None]).squeeze(-1)
            gain = (after - before).detach()
            moving = moving & (gain.abs() >= least_change) & (gain >= -largest_loss)
            before = after
        return boxes.detach()
