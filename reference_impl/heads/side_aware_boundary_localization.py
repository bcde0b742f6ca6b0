"""Side-aware boundary localisation (SABL): Wang, Zhang, Cao, Chen, Pang, Gong, Shi, Loy and Lin, ECCV 2020."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import relu, smooth_l1_loss, softplus

from reference_impl.ops.boxes import box_around, box_center, box_size
from reference_impl.ops.checked import checked
from reference_impl.ops.layout import per_anchor
from reference_impl.ops.numerics import safe_divide, widen

__all__ = [
    "DenseSideAwareBoundaryLocalization",
    "SideAwareBoundaryLocalization",
    "bucket_targets",
    "bucketing_loss",
    "decode_buckets",
]

# Side of the square that RetinaNet has at each location, in strides.
SQUARE = 4


@checked
def bucket_targets(
    boxes: Float[Tensor, "*batch n 4"],
    proposals: Float[Tensor, "*batch n 4"],
    *,
    bins: int = 7,
    scale: float = 1.7,
    nearest: int = 2,
    reach: float = 1.0,
) -> tuple[Int[Tensor, "*batch n 4"], Bool[Tensor, "*batch n 4 bins"], Float[Tensor, "*batch n 4 bins"], Bool[Tensor, "*batch n 4 bins"]]:
    r"""What each side of a proposal has to find: first the bucket that the true side lies in, then how far it is from the bucket's middle.

    The enlarged proposal is cut into $2k$ buckets across and $2k$ down. Each side has the half of them that is nearer to it, counted
    inwards; which bucket is nearest to the true side is to be classified.

    $$ b_i = p \pm (i + \tfrac12)\, l, \qquad l = \frac{\lambda w}{2k}, \qquad y = \arg\min_i |b_i - g|, \qquad t_i = \frac{b_i - g}{l} $$

    Args:
        boxes: the ground truth $g$ of each proposal, absolute `(x1, y1, x2, y2)` in pixels. No gradient passes to it.
        proposals: absolute `(x1, y1, x2, y2)` in pixels; $p$ is a side of the enlarged one. No gradient passes to them either.
        bins: $k$, number of buckets of a side.
        scale: $\lambda$, by how much a proposal is enlarged before it is cut.
        nearest: $n$, how many of the nearest buckets learn to regress.
        reach: $r$, largest $|t_i|$ (excluded) at which a bucket that is not the nearest learns to regress, in buckets.

    Returns:
        For the sides x1, y1, x2, y2 of each proposal: the bucket $y$; which buckets are classified, that is all but those less than a
        bucket away from the side without being the nearest; the offset $t_i$ from each bucket; and which of these are learned. A proposal
        without area has offsets 0.
    """
    middle, length = _buckets(widen(proposals.detach()), bins=bins, scale=scale)
    offset = safe_divide(middle - widen(boxes.detach())[..., None], length.expand_as(middle))
    distance = offset.abs()
    order = distance.argsort(dim=-1, stable=True)
    place = torch.empty_like(order).scatter(-1, order, torch.arange(bins, device=order.device).expand_as(order))
    classified = (place == 0) | (distance >= 1)
    regressed = (place == 0) | ((place < nearest) & (distance < reach))
    return order[..., 0], classified, offset, regressed


@checked
def bucketing_loss(
    logits: Float[Tensor, "*batch n 4 bins"],
    offset: Float[Tensor, "*batch n 4 bins"],
    boxes: Float[Tensor, "*batch n 4"],
    proposals: Float[Tensor, "*batch n 4"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    scale: float = 1.7,
    nearest: int = 2,
    reach: float = 1.0,
    beta: float = 0.1,
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    r"""Trains each bucket as a binary classifier, and the offsets from the nearest buckets, which are never large.

    $$ L_{bucket} = \tfrac14 \sum_{side} \sum_{i \text{ classified}} \mathrm{BCE}(\sigma(x_i), [i = y]), \qquad
    L_{offset} = \sum_{side} \sum_{i \text{ regressed}} \mathrm{smooth}_{L_1}(\hat t_i - t_i) $$

    The authors divide both sums by the number of all sampled proposals, background included, and add them with weight 1. No gradient passes
    to boxes and proposals.

    Args:
        logits: $x_i$ of each side and bucket.
        offset: $\hat t_i$, in buckets.
        boxes: the ground truth of each proposal, absolute `(x1, y1, x2, y2)` in pixels.
        proposals: absolute `(x1, y1, x2, y2)` in pixels.
        valid: the proposals that have an object; by default all.
        scale: $\lambda$, as for `bucket_targets`.
        nearest: $n$, as for `bucket_targets`.
        reach: $r$, as for `bucket_targets`.
        beta: $\beta$, where the smooth $L_1$ loss turns from quadratic to linear, in buckets.

    Returns:
        Loss of the buckets and loss of the offsets of each proposal.
    """
    logits, offset = widen(logits), widen(offset)
    target = bucket_targets(boxes, proposals, bins=logits.shape[-1], scale=scale, nearest=nearest, reach=reach)
    bucket, classified, wanted, regressed = target
    own = bucket[..., None] == torch.arange(logits.shape[-1], device=bucket.device)
    of_buckets = (softplus(torch.where(own, -logits, logits)) * classified).sum(-1).mean(-1)
    of_offsets = smooth_l1_loss(offset, torch.where(regressed, wanted, offset.detach()), beta=beta, reduction="none")
    of_offsets = of_offsets.masked_fill(~regressed, 0).sum((-2, -1))
    if valid is None:
        return of_buckets, of_offsets
    return of_buckets.where(valid, 0), of_offsets.where(valid, 0)


@checked
def decode_buckets(
    logits: Float[Tensor, "*batch n 4 bins"],
    offset: Float[Tensor, "*batch n 4 bins"],
    proposals: Float[Tensor, "*batch n 4"],
    *,
    scale: float = 1.7,
) -> tuple[Float[Tensor, "*batch n 4"], Float[Tensor, "*batch n"]]:
    r"""Boxes at inference, each side from its likeliest bucket, and how sure the buckets are of it.

    $$ \hat g = b_{\hat y} - \hat t_{\hat y}\, l, \qquad c = \tfrac14 \sum_{side} \big( S_{\hat y} + [|\hat y - y'| = 1]\, S_{y'} \big),
    \qquad S = \mathrm{softmax}(x) $$

    $\hat y$ is the likeliest bucket and $y'$ the second. If the two are neighbours both count, since a side near the border of two buckets
    is no doubtful side. Class scores are multiplied with $c$ before suppression, "bucketing guided rescoring". The choice of a bucket has
    no gradient.

    Args:
        logits: $x_i$ of each side and bucket.
        offset: $\hat t_i$, in buckets.
        proposals: absolute `(x1, y1, x2, y2)` in pixels.
        scale: $\lambda$, as in training.

    Returns:
        The boxes, which may reach beyond the image, and the confidence $c$ in [0, 1].

    Raises:
        ValueError: there are fewer than two buckets to a side, or the shapes do not fit together.
    """
    bins = logits.shape[-1]
    if bins < 2:
        raise ValueError(f"decode_buckets: `logits` has {bins} buckets for each side; expected at least 2")
    share = widen(logits).softmax(-1)
    best = share.argmax(-1, keepdim=True)
    second = share.scatter(-1, best, -1).argmax(-1, keepdim=True)
    middle, length = _buckets(widen(proposals), bins=bins, scale=scale)
    boxes = (middle - widen(offset) * length).gather(-1, best).squeeze(-1)
    sure = share.gather(-1, best) + share.gather(-1, second) * ((best - second).abs() == 1)
    return boxes, sure.squeeze(-1).mean(-1)


class SideAwareBoundaryLocalization(nn.Module):
    r"""The branch that localises: one vector for each column and for each row of a pooled region, and from it that column's bucket.

    Two convolutions refine the region. Then it is summed over its rows, with weights $a_{ij}$ from an attention that add up to 1 over the
    rows of each column, and likewise over its columns:

    $$ F_x(j) = \frac{\sum_i a_{ij} F_{ij}}{\sum_i a_{ij}}, \qquad a = \sigma(\mathrm{conv}_{1\times 1}(F)) $$

    A convolution along each of the two profiles, and another that doubles its length, give one position for each bucket; each side has the
    half of the positions that is nearer to it. One pair of layers predicts logit and offset for all sides and positions. It does not know
    of classes: the classifier is a branch of its own, and background proposals are not localised.

    Args:
        channels: of the pooled features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.refine = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.along_x, self.along_y = (nn.Conv1d(channels, channels, 3, padding=1) for _ in range(2))
        self.double_x, self.double_y = (nn.ConvTranspose1d(channels, channels, 2, stride=2) for _ in range(2))
        self.attention_x, self.attention_y = (nn.Conv2d(channels, 1, 1) for _ in range(2))
        self.logit, self.offset = nn.Linear(channels, 1), nn.Linear(channels, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.startswith(("attention", "logit", "offset")):
                nn.init.normal_(parameter, std=0.001 if name.startswith("offset") else 0.01)
            else:
                nn.init.kaiming_normal_(parameter, mode="fan_out", nonlinearity="relu")

    @checked
    def forward(self, features: Float[Tensor, "b channels k k"]) -> tuple[Float[Tensor, "b 4 k"], Float[Tensor, "b 4 k"]]:
        """Pooled features of each proposal -> logits and offsets of `k` buckets for each of its sides x1, y1, x2, y2."""
        for layer in self.refine:
            features = relu(layer(features))
        share_x, share_y = self.attention_x(features).sigmoid(), self.attention_y(features).sigmoid()
        profile_x = (features * (share_x / share_x.sum(-2, keepdim=True))).sum(-2)
        profile_y = (features * (share_y / share_y.sum(-1, keepdim=True))).sum(-1)
        profile_x = relu(self.double_x(relu(self.along_x(profile_x))))
        profile_y = relu(self.double_y(relu(self.along_y(profile_y))))
        both = torch.stack((profile_x, profile_y), 1).mT
        k = features.shape[-1]
        sides = torch.cat((both[:, :, :k], both[:, :, k:].flip(2)), 1)
        return self.logit(sides).squeeze(-1), self.offset(sides).squeeze(-1)


class DenseSideAwareBoundaryLocalization(nn.Module):
    """The branch that localises in RetinaNet: each location predicts for a square of its own, by convolutions.

    The tower is that of the other branch: four layers, and one more for logits and for offsets of all sides. The authors find the object of
    a square by the nine anchors that RetinaNet has there, and enlarge the square by 3 before it is cut: `scale=3` in all functions here.

    Args:
        channels: of the features.
        width: $d$, channels of the tower.
        bins: $k$, number of buckets of a side.
    """

    def __init__(self, channels: int, *, width: int = 256, bins: int = 7) -> None:
        super().__init__()
        self.tower = nn.ModuleList(nn.Conv2d(channels if i == 0 else width, width, 3, padding=1) for i in range(4))
        self.logit, self.offset = (nn.Conv2d(width, 4 * bins, 3, padding=1) for _ in range(2))
        for layer in (*self.tower, self.logit, self.offset):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    @checked
    def forward(
        self, features: Float[Tensor, "b channels h w"], stride: int
    ) -> tuple[Float[Tensor, "b n 4 k"], Float[Tensor, "b n 4 k"], Float[Tensor, "b n 4"]]:
        """One level and the pixels from cell to cell -> logits and offsets of the sides x1, y1, x2, y2, and the squares, of each cell."""
        squares = self.squares(features, stride).expand(len(features), -1, -1)
        for layer in self.tower:
            features = relu(layer(features))
        logits, offset = (torch.unflatten(per_anchor(last(features), anchors=1), -1, (4, -1)) for last in (self.logit, self.offset))
        return logits, offset, squares

    def squares(self, features: Tensor, stride: int) -> Tensor:
        """The proposals of a level, `[n 4]`, row by row, the first around the corner of the image."""
        rows, columns = features.shape[-2:]
        place = torch.arange(max(rows, columns), device=features.device, dtype=widen(features).dtype) * stride
        center = torch.stack((place[:columns].expand(rows, columns), place[:rows, None].expand(rows, columns)), -1).flatten(0, 1)
        return box_around(center, SQUARE * stride)


def _buckets(proposals: Tensor, *, bins: int, scale: float) -> tuple[Tensor, Tensor]:
    """The middle of each side's buckets, from outside to inside, `[*batch n 4 bins]`, and their length, `[*batch n 4 1]`."""
    center, size = box_center(proposals)[..., None], (box_size(proposals) * scale)[..., None]
    steps = torch.arange(bins, dtype=proposals.dtype, device=proposals.device) + 0.5
    from_center = size * (bins - steps) / (2 * bins)
    length = size / (2 * bins)
    return torch.cat((center - from_center, center + from_center), -2), torch.cat((length, length), -2)
