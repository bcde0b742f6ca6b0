"""Scale-dependent pooling (SDP) and cascaded rejection classifiers (CRC): Yang, Choi and Lin, CVPR 2016."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from reference_impl.ops.boosting import boosted_score, boosted_stumps, rejection_threshold
from reference_impl.ops.boxes import box_size, clip_boxes, decode_deltas
from reference_impl.ops.checked import checked
from reference_impl.ops.levels import check_levels
from reference_impl.ops.nms import nms
from reference_impl.ops.numerics import entropy_of_class, widen
from reference_impl.ops.roi_align import roi_align

__all__ = [
    "CascadedRejection",
    "ScaleDependentPooling",
    "scale_branch",
    "scale_dependent_detections",
    "scale_dependent_loss",
]

BRANCHES = 3


@checked
def scale_branch(boxes: Float[Tensor, "*batch n 4"], *, small: float = 64.0, large: float = 128.0) -> Int[Tensor, "*batch n"]:
    r"""Sends each proposal to the layer that still has enough cells for it, by its height alone.

    $$ s = [h > h_1] + [h > h_2] $$

    Args:
        boxes: absolute `(x1, y1, x2, y2)` in pixels of the network's input, $h$ high.
        small: $h_1$, height in pixels up to which a proposal is pooled from the finest of the three layers.
        large: $h_2$, height above which it is pooled from the coarsest.

    Returns:
        0, 1 or 2 for each proposal.
    """
    height = box_size(widen(boxes))[..., 1]
    return (height > small).long() + (height > large).long()


@checked
def scale_dependent_loss(
    logits: Float[Tensor, "*batch n c"],
    offsets: Float[Tensor, "*batch n c 4"],
    labels: Int[Tensor, "*batch n"],
    targets: Float[Tensor, "*batch n 4"],
    valid: Bool[Tensor, "*batch n"] | None = None,
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    r"""Trains each branch on the proposals of its own heights, as in Fast R-CNN: cross entropy, and smooth L1 of the own class's offsets.

    $$ L_{cls} = -\ln \frac{e^{x_y}}{\sum_c e^{x_c}}, \qquad L_{loc} = [y < C] \sum_{i=1}^4 \mathrm{smooth}_{L1}(t_{y,i} - \hat t_i) $$

    Args:
        logits: $x$ of $C + 1$ classes, background last.
        offsets: $t$ of each class; those of background are not used.
        labels: $y$, 0 to $C - 1$, or $C$ for background.
        targets: $\hat t$, what `ops.boxes.encode_deltas` says of the ground truth relative to the proposal.
        valid: the proposals that count; by default all.

    Returns:
        Loss of class and of place for each proposal.
    """
    logits, offsets, targets = widen(logits), widen(offsets), widen(targets)
    background = logits.shape[-1] - 1
    valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
    labels = labels.long().clamp(0, background)
    by_class = entropy_of_class(logits.log_softmax(-1), labels)
    own = offsets.gather(-2, labels[..., None, None].expand(*labels.shape, 1, 4)).squeeze(-2)
    by_box = smooth_l1_loss(own, targets.to(own.dtype), reduction="none").sum(-1)
    return by_class.where(valid, 0), by_box.where(valid & (labels < background), 0)


@checked
def scale_dependent_detections(
    logits: Float[Tensor, "*batch n c"],
    offsets: Float[Tensor, "*batch n c 4"],
    proposals: Float[Tensor, "*batch n 4"],
    alive: Bool[Tensor, "*batch n"] | None = None,
    image_size: Float[Tensor, "*batch 2"] | None = None,
    *,
    threshold: float = 0.3,
    limit: int = 100,
) -> tuple[Float[Tensor, "*batch n c"], Float[Tensor, "*batch n c 4"], Bool[Tensor, "*batch n c"]]:
    r"""Keeps the best boxes of each class, of those proposals that no rejection classifier has thrown out.

    From here on the branches play no part: small and large boxes of a class suppress each other.

    Args:
        logits: of $C + 1$ classes, background last; it is never detected.
        offsets: of each class.
        proposals: absolute `(x1, y1, x2, y2)` in pixels.
        alive: the proposals that were not rejected, as `CascadedRejection` gives them; by default all.
        image_size: width and height; boxes are cut off there. Without it they are not.
        threshold: $N_t$, IoU above which a box discards a worse one of its class.
        limit: $N$, how many detections an image has at most, of all classes.

    Returns:
        Scores in [0, 1] and boxes of each proposal and class, and which of them are detections. Coordinates may be negative.
    """
    scores = widen(logits).softmax(-1)
    boxes = decode_deltas(widen(offsets), widen(proposals)[..., None, :].expand(offsets.shape))
    if image_size is not None:
        boxes = clip_boxes(boxes, image_size[..., None, None, :])
    classes = torch.arange(scores.shape[-1], device=scores.device).expand(scores.shape)
    candidate = classes < scores.shape[-1] - 1
    candidate = candidate if alive is None else candidate & alive[..., None]
    detected = nms(boxes.flatten(-3, -2), scores.flatten(-2), candidate.flatten(-2), classes.flatten(-2), limit=limit, threshold=threshold)
    return scores, boxes, detected.view(scores.shape)


class ScaleDependentPooling(nn.Module):
    """Three detectors on three layers of a plain backbone: each proposal is pooled from one layer and judged by the detector there.

    A small object covers a few cells of the last layer and many of an earlier one, which still responds to it. The detectors share the
    backbone and nothing else, so each has its own two fully connected layers, classifier and regressor. So that shapes do not depend on the
    proposals, all three judge every proposal, and the result for its height is taken; no gradient reaches the others.

    Args:
        channels: of the three layers, finest first; with VGG-16's third to fifth block 256, 512 and 512.
        strides: pixels between two cells of each layer; there 4, 8 and 16.
        classes: number $C$ of foreground classes.
        size: $m$, rows and columns of the pooled features.
        hidden: $d$, units of each fully connected layer.
        dropout: $q$, share of these units that training leaves out.
        small: $h_1$, height in pixels up to which a proposal belongs to the finest layer.
        large: $h_2$, height above which it belongs to the coarsest.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        classes: int,
        *,
        size: int = 7,
        hidden: int = 4096,
        dropout: float = 0.5,
        small: float = 64.0,
        large: float = 128.0,
    ) -> None:
        super().__init__()
        if len(channels) != BRANCHES:
            raise ValueError(f"ScaleDependentPooling: `channels` is {list(channels)}; expected those of three layers")
        self.channels, self.strides, self.size, self.small, self.large = tuple(channels), tuple(strides), size, small, large
        self.branches = nn.ModuleList(_Detector(c * size**2, classes + 1, hidden, dropout) for c in channels)

    @checked
    def forward(
        self, levels: Sequence[Tensor], proposals: Float[Tensor, "b n 4"]
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n c 4"]]:
        """Layers `[b channels[i] h_i w_i]`, finest first, and proposals -> logits of $C + 1$ classes, background last, and offsets of each.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("ScaleDependentPooling", levels, self.channels)
        branch = scale_branch(proposals, small=self.small, large=self.large)
        found = [
            detector(roi_align(x, proposals, scale=1 / stride, size=self.size).flatten(2))
            for x, stride, detector in zip(levels, self.strides, self.branches, strict=True)
        ]
        logits, offsets = (torch.stack(x, -2).take_along_dim(branch[..., None, None], -2).squeeze(-2) for x in zip(*found, strict=True))
        return logits, offsets.view(*logits.shape, 4)


class _Detector(nn.Module):
    """The head of Fast R-CNN."""

    def __init__(self, features: int, outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout)
        )
        self.classify, self.regress = nn.Linear(hidden, outputs), nn.Linear(hidden, 4 * outputs)
        for layer, std in ((self.classify, 0.01), (self.regress, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        x = self.layers(pooled)
        return self.classify(x), self.regress(x)


class CascadedRejection(nn.Module):
    r"""Throws proposals out layer by layer, while the backbone is still being computed, before the costly detectors see them.

    Every layer has one boosted classifier for each of the three ranges of heights, up to the layer that the range is pooled from. A
    classifier looks at a handful of the layer's pooled features, and is trained on the proposals that all before it have let through
    (`fit`), with a bar that hardly any object stays below. Until it is trained, nothing is rejected.

    Args:
        channels: of the layers, finest first. The last three are those that `ScaleDependentPooling` pools from; more may come before.
        strides: pixels between two cells of each layer.
        size: $m$, rows and columns of the pooled features.
        k: $T$, number of weak classifiers in each rejection classifier.
        recall: $\rho$, share of the objects that a classifier has to let through.
        small: $h_1$, height in pixels up to which a proposal belongs to the first range.
        large: $h_2$, height above which it belongs to the last.
    """

    feature: Tensor
    threshold: Tensor
    weight: Tensor
    bar: Tensor

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        *,
        size: int = 7,
        k: int = 50,
        recall: float = 0.995,
        small: float = 64.0,
        large: float = 128.0,
    ) -> None:
        super().__init__()
        if len(channels) < BRANCHES:
            raise ValueError(f"CascadedRejection: `channels` is {list(channels)}; expected those of three layers or more")
        self.channels, self.strides, self.size, self.k, self.recall = tuple(channels), tuple(strides), size, k, recall
        self.small, self.large = small, large
        for name in ("feature", "threshold", "weight"):
            values = torch.zeros(len(channels), BRANCHES, k)
            self.register_buffer(name, values.long() if name == "feature" else values)
        self.register_buffer("bar", torch.full((len(channels), BRANCHES), torch.finfo(torch.float32).min))

    @checked
    def forward(
        self, levels: Sequence[Tensor], proposals: Float[Tensor, "b n 4"], valid: Bool[Tensor, "b n"] | None = None
    ) -> Bool[Tensor, "b n"]:
        """Layers `[b channels[i] h_i w_i]`, finest first, and proposals -> which of the valid ones no classifier rejects.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("CascadedRejection", levels, self.channels)
        branch = scale_branch(proposals, small=self.small, large=self.large)
        alive = torch.ones_like(branch, dtype=torch.bool) if valid is None else valid
        for level, x in enumerate(levels):
            alive = alive & self._passes(level, self._pool(level, x, proposals), branch)
        return alive

    @torch.no_grad()
    def fit(
        self,
        levels: Sequence[Tensor],
        proposals: Float[Tensor, "b n 4"],
        positive: Bool[Tensor, "b n"],
        valid: Bool[Tensor, "b n"] | None = None,
    ) -> Bool[Tensor, "b n"]:
        """Trains all classifiers, layer after layer, each on what is left of the proposals.

        Args:
            levels: layers, as in `forward`, of all training images.
            proposals: absolute `(x1, y1, x2, y2)` in pixels.
            positive: which of them stand for an object.
            valid: which of them are no padding; by default all.

        Returns:
            Which proposals are left at the end.
        """
        check_levels("CascadedRejection", levels, self.channels)
        branch = scale_branch(proposals, small=self.small, large=self.large)
        alive = torch.ones_like(positive) if valid is None else valid
        for level, x in enumerate(levels):
            pooled = self._pool(level, x, proposals)
            for own in range(max(0, level + BRANCHES - len(levels)), BRANCHES):
                self._train(level, own, pooled, branch, positive, alive & (branch == own))
            alive = alive & self._passes(level, pooled, branch)
        return alive

    def _train(self, level: int, own: int, pooled: Tensor, branch: Tensor, positive: Tensor, used: Tensor) -> None:
        """The classifier of one layer for one range of heights."""
        stumps = boosted_stumps(pooled.flatten(0, 1), positive.flatten(), used.flatten(), k=self.k)
        for values, found in zip((self.feature, self.threshold, self.weight), stumps, strict=True):
            values[level, own] = found
        score = self._score(level, pooled, branch)
        self.bar[level, own] = rejection_threshold(score.flatten(), positive.flatten(), used.flatten(), recall=self.recall)

    def _passes(self, level: int, pooled: Tensor, branch: Tensor) -> Tensor:
        return self._score(level, pooled, branch) >= self.bar[level][branch]

    def _score(self, level: int, pooled: Tensor, branch: Tensor) -> Tensor:
        """Of each proposal by the layer's classifier for its own range of heights."""
        stumps = (values[level][branch] for values in (self.feature, self.threshold, self.weight))
        return boosted_score(pooled[..., None, :], *stumps).squeeze(-1)

    def _pool(self, level: int, x: Tensor, proposals: Tensor) -> Tensor:
        return roi_align(x, proposals, scale=1 / self.strides[level], size=self.size).flatten(2)
