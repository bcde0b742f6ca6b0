"""IoU-uniform R-CNN, its branch that predicts the IoU: Zhu, Xie, Liu, Tao and Tao, 2019."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad, relu, smooth_l1_loss

from reference_impl.ops.boxes import clip_boxes, decode_deltas, scale_deltas
from reference_impl.ops.checked import checked
from reference_impl.ops.levels import check_levels
from reference_impl.ops.nms import nms_per_class
from reference_impl.ops.numerics import widen
from reference_impl.ops.roi_align import roi_align_by_size

__all__ = ["IoUPrediction", "iou_detections", "iou_prediction_loss"]


@checked
def iou_prediction_loss(
    iou_pred: Float[Tensor, "*batch n"],
    deltas: Float[Tensor, "*batch n 4"],
    iou: Float[Tensor, "*batch n"],
    targets: Float[Tensor, "*batch n 4"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    iou_beta: float = 0.5,
    beta: float = 1.0,
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    r"""Teaches the branch how well a box fits and how to move it; the better it fits already, the more errors of the move count.

    $$ L_{iou} = L1_\text{smooth}(\hat u - u), \qquad L_{loc} = w(u) \sum_{i=1}^4 L1_\text{smooth}(d_i - t_i) $$

    $w$ is 1 up to an IoU of 0.6, then 1.5 up to 0.7, 2 up to 0.8, and 3 above, since the errors of good boxes are small numbers. The boxes
    are those of `generation.iou_uniform`, with equally many of each of these intervals. The authors take the mean over all boxes of the
    first, and over all boxes and the four deltas of the second.

    Args:
        iou_pred: $\hat u$, of the boxes that are shown.
        deltas: $d$, the same for all classes.
        iou: $u$, of these boxes with their ground truth, in [0, 1].
        targets: $t$, what moves the boxes there, in the unit of the deltas.
        valid: the boxes that count; by default all.
        iou_beta: $\beta_u$, error of the IoU at which smooth L1 turns linear.
        beta: $\beta$, error of a delta at which smooth L1 turns linear.

    Returns:
        Loss of the IoU and of the place for each box.
    """
    iou_pred, deltas, iou, targets = widen(iou_pred), widen(deltas), widen(iou), widen(targets)
    valid = torch.ones_like(iou, dtype=torch.bool) if valid is None else valid
    weight = 1 + 0.5 * (iou > 0.6) + 0.5 * (iou > 0.7) + 1.0 * (iou > 0.8)
    of_iou = smooth_l1_loss(iou_pred, iou, beta=iou_beta, reduction="none")
    of_place = weight * smooth_l1_loss(deltas, targets, beta=beta, reduction="none").sum(-1)
    return of_iou.where(valid, 0), of_place.where(valid, 0)


@checked
def iou_detections(
    logits: Float[Tensor, "*batch n c"],
    iou_pred: Float[Tensor, "*batch n"],
    boxes: Float[Tensor, "*batch n 4"],
    *,
    lowest_score: float = 0.05,
    threshold: float = 0.5,
    limit: int = 100,
) -> tuple[Float[Tensor, "*batch n c"], Bool[Tensor, "*batch n c"]]:
    r"""Lets the box survive whose class and fit together score highest, and not the one whose class is surest.

    $$ s_c = \hat u \cdot \mathrm{softmax}(x)_c $$

    Boxes compete, class by class, by this score. Which of them compete is still decided by the class alone.

    Args:
        logits: $x$, of the boxes before they are regressed; one for each foreground class and, last, the background.
        iou_pred: $\hat u$, predicted for the boxes after they are regressed.
        boxes: these, absolute `(x1, y1, x2, y2)` in pixels.
        lowest_score: $p_{\min}$, a box with a lower probability of a class is no candidate for it.
        threshold: $N_t$, IoU above which a box discards a worse one of its class.
        limit: $D$, how many detections an image has at most, of all classes.

    Returns:
        Scores, which may be negative, and which box is a detection of which class; never of the background.
    """
    probability = widen(logits).softmax(-1)
    scores = probability * widen(iou_pred)[..., None]
    ranked = scores.masked_fill(probability <= lowest_score, -torch.inf)[..., :-1]
    lowest = torch.finfo(scores.dtype).min
    return scores, pad(nms_per_class(ranked, boxes, lowest_score=lowest, threshold=threshold, limit=limit), (0, 1))


class IoUPrediction(nn.Module):
    r"""Predicts for a box how well it fits and how to move it, with two fully connected layers that know nothing of the class.

    It is trained with generated boxes. At inference it is used twice (`detect`): on the proposals, which it moves, and then on the boxes
    that come out, to say how well these fit.

    Args:
        channels: of the features.
        width: $n$ of the fully connected layers.
        size: $m$, cells along each side of the pooled features.
        scale: $r$, size of the finest feature map relative to the image.
        finest_size: $s_1$, side of a square from which on boxes are pooled from the second level; from twice that on from the third, and so
            on.
        center_std: $\sigma_x$, unit of the offsets of the centre, in sizes of the box.
        size_std: $\sigma_w$, unit of the logarithms of width and height.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 1024,
        size: int = 7,
        scale: float = 0.25,
        finest_size: float = 112.0,
        center_std: float = 0.1,
        size_std: float = 0.2,
    ) -> None:
        super().__init__()
        self.channels, self.size, self.scale, self.finest_size = channels, size, scale, finest_size
        self.center_std, self.size_std = center_std, size_std
        self.first, self.second = nn.Linear(channels * size**2, width), nn.Linear(width, width)
        self.iou, self.regress = nn.Linear(width, 1), nn.Linear(width, 4)
        for layer in (self.first, self.second):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    @checked
    def forward(self, levels: Sequence[Tensor], boxes: Float[Tensor, "b n 4"]) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n 4"]]:
        """Feature maps `[b channels h_i w_i]`, finest first, each half as fine as the one before, and boxes -> IoUs and deltas.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: channels or order of the levels, or the shape of the boxes does not fit.
        """
        check_levels("IoUPrediction", levels, [self.channels] * len(levels))
        pooled = roi_align_by_size(levels, boxes, scale=self.scale, finest_size=self.finest_size, size=self.size)
        x = relu(self.second(relu(self.first(pooled.flatten(-3)))))
        return self.iou(x).squeeze(-1), self.regress(x)

    def refine(self, boxes: Float[Tensor, "b n 4"], deltas: Float[Tensor, "b n 4"]) -> Float[Tensor, "b n 4"]:
        """The boxes, moved by what `forward` says."""
        return decode_deltas(scale_deltas(deltas, center=self.center_std, size=self.size_std), boxes)

    def detect(
        self,
        levels: Sequence[Tensor],
        proposals: Float[Tensor, "b n 4"],
        logits: Float[Tensor, "b n c"],
        image_size: Float[Tensor, "b 2"] | None = None,
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n 4"], Bool[Tensor, "b n c"]]:
        """Detections of an image.

        Args:
            levels: feature maps, as in `forward`.
            proposals: those of the proposal network.
            logits: what a classifier says of these, the background last.
            image_size: width and height; the boxes are cut off there. Without it they are not.

        Returns:
            Scores and boxes, one for each proposal, and which box is a detection of which class.
        """
        boxes = self.refine(proposals, self(levels, proposals)[1])
        if image_size is not None:
            boxes = clip_boxes(boxes, image_size[:, None])
        scores, kept = iou_detections(logits, self(levels, boxes)[0], boxes)
        return scores, boxes, kept
