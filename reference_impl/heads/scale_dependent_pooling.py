"""Scale-dependent pooling (SDP) and cascaded rejection classifiers (CRC): Yang, Choi and Lin, CVPR 2016."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad, smooth_l1_loss

from reference_impl.ops.boxes import box_size, decode_deltas
from reference_impl.ops.checked import checked
from reference_impl.ops.levels import check_levels
from reference_impl.ops.nms import nms
from reference_impl.ops.numerics import safe_divide, widen
from reference_impl.ops.roi_align import roi_align

__all__ = [
    "CascadedRejection",
    "ScaleDependentPooling",
    "boosted_score",
    "boosted_stumps",
    "rejection_threshold",
    "scale_branch",
    "scale_dependent_detections",
    "scale_dependent_loss",
]

BRANCHES = 3
# How far from 1 an edge counts at least, so that a stump without error has a weight; and what is no difference, but rounding.
PERFECT, ROUNDING = 1e-6, 1e-9


@checked
def scale_branch(boxes: Float[Tensor, "*batch n 4"], *, small: float = 64.0, large: float = 128.0) -> Int[Tensor, "*batch n"]:
    r"""Sends each proposal to the layer that still has enough cells for it, by its height alone.

    $$ s = [h > 64] + [h > 128] $$

    Args:
        boxes: absolute `(x1, y1, x2, y2)` in pixels of the network's input, $h$ high.
        small: height up to which a proposal is pooled from the finest of the three layers.
        large: height from which on it is pooled from the coarsest, exclusive.

    Returns:
        0, 1 or 2 for each proposal.
    """
    height = box_size(widen(boxes))[..., 1]
    return (height > small).long() + (height > large).long()


@checked
def boosted_stumps(
    features: Float[Tensor, "*batch n c"],
    positive: Bool[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    k: int = 50,
) -> tuple[Int[Tensor, "*batch k"], Float[Tensor, "*batch k"], Float[Tensor, "*batch k"]]:
    r"""Trains one rejection classifier by AdaBoost: features of a layer, one at a time and cut in two, that tell objects from background.

    $$ (j_t, \theta_t) = \arg\max_{j, \theta} |r(j, \theta)|, \qquad r(j, \theta) = \sum_i D_i\, y_i\, h_i, \qquad
    w_t = \tfrac{1}{2} \ln \frac{1 + r}{1 - r}, \qquad D_i \leftarrow D_i\, e^{-w_t y_i h_i} / Z $$

    $h_i$ is 1 where $x_{ij} > \theta$ and -1 elsewhere, $y_i$ is 1 for an object and -1 for background. At the start objects and background
    have half of the weight $D$ each, however few the objects are. A cut lies halfway between two values; the earlier feature and the lower
    cut win a tie. No gradient passes through.

    Args:
        features: $x$ of each proposal, pooled from one layer, in a row.
        positive: the proposals that stand for an object.
        valid: the proposals to train on: those of one range of heights that the classifiers of earlier layers have let through. By default
            all.
        k: number $T$ of weak classifiers.

    Returns:
        Feature $j_t$ and cut $\theta_t$ of each stump, and its weight $w_t$, which is negative where low values speak for an object, and 0
        where nothing can be told apart.
    """
    x, rows = widen(features.detach()), features.shape[-2]
    valid = torch.ones_like(positive) if valid is None else valid
    sign = torch.where(positive, 1.0, -1.0).double()
    objects, background = (valid & positive).double(), (valid & ~positive).double()
    share = safe_divide(objects, objects.sum(-1, keepdim=True)) + safe_divide(background, background.sum(-1, keepdim=True))
    share = safe_divide(share, share.sum(-1, keepdim=True))

    ordered, order = pad(x.mT.masked_fill(~valid[..., None, :], torch.inf), (0, 1), value=torch.inf).sort(-1)
    cuts = (ordered[..., :-1] < ordered[..., 1:]) & ordered[..., 1:].isfinite()
    middle = pad((ordered[..., :-1] + (ordered[..., 1:] - ordered[..., :-1]) / 2).masked_fill(~cuts, 0), (0, 1)).flatten(-2)

    found = []
    for _ in range(k):
        signed = pad(share * sign, (0, 1))[..., None, :].expand(order.shape).gather(-1, order)
        below = signed.cumsum(-1)[..., :rows]
        edge = pad((signed.sum(-1, keepdim=True) - 2 * below).masked_fill(~cuts, 0), (0, 1)).flatten(-2)
        best = edge.abs().amax(-1, keepdim=True)
        index = (edge.abs() >= best - ROUNDING).to(torch.uint8).argmax(-1, keepdim=True)
        feature, cut = index // (rows + 1), middle.gather(-1, index)
        weight = edge.gather(-1, index).clamp(PERFECT - 1, 1 - PERFECT).atanh()
        response = _responses(x, feature, cut).squeeze(-1)
        share = share * (-weight * sign * response).exp()
        share = safe_divide(share, share.sum(-1, keepdim=True))
        found.append((feature, cut, weight.to(x.dtype)))
    features_of, cuts_of, weights_of = (torch.cat(values, -1) for values in zip(*found, strict=True))
    return features_of, cuts_of, weights_of


@checked
def boosted_score(
    features: Float[Tensor, "*batch n c"],
    feature: Int[Tensor, "*batch k"],
    threshold: Float[Tensor, "*batch k"],
    weight: Float[Tensor, "*batch k"],
) -> Float[Tensor, "*batch n"]:
    r"""Sums what the weak classifiers of one rejection classifier say of each proposal.

    $$ R(x) = \sum_{t=1}^T w_t\, h_t(x), \qquad h_t(x) = \begin{cases} 1 & x_{j_t} > \theta_t \\ -1 & \text{otherwise} \end{cases} $$

    It reads $T$ numbers of a proposal's features, however many there are.

    Args:
        features: $x$ of each proposal.
        feature: $j_t$, from 0.
        threshold: $\theta_t$.
        weight: $w_t$, of either sign.

    Returns:
        $R$ of each proposal; it may be negative.
    """
    return (widen(weight)[..., None, :] * _responses(widen(features), feature, widen(threshold))).sum(-1)


def _responses(features: Tensor, feature: Tensor, threshold: Tensor) -> Tensor:
    """1 where a feature is above its cut and -1 elsewhere, `[*batch n k]`."""
    index = feature.clamp(max=features.shape[-1] - 1)[..., None, :].expand(*features.shape[:-1], feature.shape[-1])
    above = features.gather(-1, index) > threshold[..., None, :]
    return torch.where(above, 1.0, -1.0).to(features.dtype)


@checked
def rejection_threshold(
    score: Float[Tensor, "*batch n"],
    positive: Bool[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    recall: float = 0.995,
) -> Float[Tensor, "*batch"]:
    r"""The highest bar that still lets the wanted share of the objects pass; a proposal below it is never seen again.

    $$ \theta = \max \{ \tau : |\{i \in \mathcal{P} : R_i \ge \tau\}| \ge \rho\, |\mathcal{P}| \} $$

    No gradient passes through.

    Args:
        score: $R$ of each proposal.
        positive: $\mathcal{P}$, the proposals that stand for an object.
        valid: the proposals that count; by default all.
        recall: $\rho$.

    Returns:
        $\theta$; without a single object the lowest number that there is, so that nothing is rejected. It may be negative.
    """
    score = widen(score.detach())
    objects = positive if valid is None else positive & valid
    lowest = torch.finfo(score.dtype).min
    ordered = pad(score.masked_fill(~objects, lowest), (0, 1), value=lowest).sort(-1, descending=True).values
    kept = (recall * objects.sum(-1, keepdim=True).double() - ROUNDING).ceil().clamp(min=1).minimum(objects.sum(-1, keepdim=True))
    return ordered.gather(-1, (kept.long() - 1).clamp(min=0)).squeeze(-1)


@checked
def scale_dependent_loss(
    logits: Float[Tensor, "*batch n c"],
    offsets: Float[Tensor, "*batch n c 4"],
    labels: Int[Tensor, "*batch n"],
    targets: Float[Tensor, "*batch n 4"],
    valid: Bool[Tensor, "*batch n"] | None = None,
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    r"""Trains each branch on the proposals of its own heights, as Fast R-CNN: cross entropy, and smooth L1 of the own class's offsets.

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
    labels = labels.clamp(0, background)
    by_class = -logits.log_softmax(-1).gather(-1, labels[..., None]).squeeze(-1)
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
    """Keeps the best boxes of each class, of those proposals that no rejection classifier has thrown out.

    From here on the branches are forgotten: small and large boxes of a class suppress each other.

    Args:
        logits: of $C + 1$ classes, background last; it is never detected.
        offsets: of each class.
        proposals: absolute `(x1, y1, x2, y2)` in pixels.
        alive: the proposals that were not rejected, as `CascadedRejection` gives them; by default all.
        image_size: width and height; boxes are cut off there. Without it they are not.
        threshold: IoU above which a box discards a worse one of its class.
        limit: how many detections an image has at most, of all classes.

    Returns:
        Scores in [0, 1] and boxes of each proposal and class, and which of them are detections. Coordinates may be negative.
    """
    scores = widen(logits).softmax(-1)
    boxes = decode_deltas(widen(offsets), widen(proposals)[..., None, :].expand(offsets.shape))
    if image_size is not None:
        boxes = boxes.clamp(min=0).minimum(torch.cat((image_size, image_size), -1)[..., None, None, :].to(boxes.dtype))
    classes = torch.arange(scores.shape[-1], device=scores.device).expand(scores.shape)
    candidate = classes < scores.shape[-1] - 1
    candidate = candidate if alive is None else candidate & alive[..., None]
    detected = nms(boxes.flatten(-3, -2), scores.flatten(-2), candidate.flatten(-2), classes.flatten(-2), limit=limit, threshold=threshold)
    return scores, boxes, detected.view(scores.shape)


class ScaleDependentPooling(nn.Module):
    """Three detectors on three layers of a plain backbone: each proposal is pooled from one layer and judged by the detector there.

    A small object is described by a few cells of the last layer and by many of an earlier one, which reacts to it. The detectors share the
    backbone and nothing else, so each has its own two fully connected layers, classifier and regressor. So that shapes do not depend on the
    proposals, all three judge all of them and the one of the own height is taken; no gradient reaches the others.

    Args:
        channels: of the three layers, finest first; with VGG-16's third to fifth block 256, 512 and 512.
        strides: pixels between two cells of each layer; there 4, 8 and 16.
        classes: number $C$ of foreground classes.
        size: rows and columns of the pooled features.
        hidden: units of each fully connected layer.
        dropout: share of these units that training leaves out.
        small: height in pixels up to which a proposal belongs to the finest layer.
        large: height above which it belongs to the coarsest.
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
    """Throws proposals out layer by layer, while the backbone is still being computed, before the costly detectors see them.

    Every layer has one boosted classifier for each of the three ranges of heights, up to the layer that the range is pooled from. A
    classifier looks at a handful of the layer's pooled features, and is trained on the proposals that all before it have let through
    (`fit`), with a bar that hardly any object is below. Until then nothing is rejected.

    Args:
        channels: of the layers, finest first. The last three are those that `ScaleDependentPooling` pools from; more may come before.
        strides: pixels between two cells of each layer.
        size: rows and columns of the pooled features.
        k: number of weak classifiers in each rejection classifier.
        recall: share of the objects that a classifier has to let through.
        small: height in pixels up to which a proposal belongs to the first range.
        large: height above which it belongs to the last.
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
