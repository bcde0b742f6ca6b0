"""AugFPN: Guo, Fan, Zhang, Xiang and Pan, CVPR 2020."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate, smooth_l1_loss

from reference_impl.ops.checked import checked
from reference_impl.ops.levels import check_levels, upsample_like
from reference_impl.ops.numerics import entropy_of_class, widen
from reference_impl.ops.roi_align import roi_align

__all__ = ["AugFPN", "ConsistentSupervision", "consistent_supervision_loss"]

# The contexts of the coarsest map: how many tenths of its height and width each of them has.
TENTHS = (1, 2, 3)


class AugFPN(nn.Module):
    r"""Adds context to the coarsest level of an FPN, which unlike the others has no coarser level to add.

    $$ X_r = \mathrm{up}\bigl(\mathrm{conv}_{1\times 1}^{r}(\mathrm{pool}_{rh \times rw}(C_5))\bigr), \qquad
    M_5 = \mathrm{conv}_{1\times 1}(C_5) + \sum_{r} \sigma(w_r) X_r, \qquad r \in \{0.1, 0.2, 0.3\} $$

    Pooling takes the mean of each part; its output has $r$ times the height and width of $C_5$, and so its aspect ratio: ratio-invariant
    adaptive pooling. The logits $w_r$, one for each position and context, come from all three contexts stacked, by a 1 x 1 and a 3 x 3
    convolution with a ReLU between: adaptive spatial fusion. From $M_5$ on it is an FPN, which carries the context down to all levels.

    In training, `ConsistentSupervision` detects from what `laterals` gives, so that the maps that are summed mean the same. `fuse` goes on
    from the laterals, and `forward` does both.

    Args:
        channels: of the backbone levels $C_i$, finest first; for ResNet-50's $C_2$ to $C_5$ these are 256, 512, 1024 and 2048.
        width: $d$, channels of every pyramid level.
        extra_levels: $n$, how many coarser levels to add by taking every second location of the last.
        convolve_extra: whether strided convolutions add them instead, as RetinaNet's do: the first reads $C_5$, and gets the mean of
            the context, too; each other one the level before it.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 256, extra_levels: int = 0, convolve_extra: bool = False) -> None:
        super().__init__()
        self.channels, self.extra_levels = tuple(channels), extra_levels
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.context = nn.ModuleList(nn.Conv2d(self.channels[-1], width, 1) for _ in TENTHS)
        self.weigh = nn.Sequential(
            nn.Conv2d(len(TENTHS) * width, width, 1), nn.ReLU(), nn.Conv2d(width, len(TENTHS), 3, padding=1), nn.Sigmoid()
        )
        self.extra = nn.ModuleList(
            nn.Conv2d(width if i else self.channels[-1], width, 3, 2, 1) for i in range(extra_levels if convolve_extra else 0)
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is not None
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Backbone levels `[b channels[i] h_i w_i]`, finest first -> as many pyramid levels `[b width h_i w_i]`, and the extra ones.

        Sizes need not be multiples of each other.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        return self.fuse(self.laterals(levels), levels[-1])

    def laterals(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Backbone levels -> the maps `[b width h_i w_i]` before any of them is fused; raises as `forward` does."""
        check_levels("AugFPN", levels, self.channels)
        return [lateral(x) for x, lateral in zip(levels, self.lateral, strict=True)]

    def fuse(self, laterals: Sequence[Tensor], coarsest: Tensor) -> list[Tensor]:
        """What `laterals` gave, and the coarsest backbone level -> the pyramid."""
        *finer, top = laterals
        context = self._context(coarsest)
        pyramid = [top + context]
        for x in reversed(finer):
            pyramid.insert(0, x + upsample_like(pyramid[0], x))
        pyramid = [smooth(x) for x, smooth in zip(pyramid, self.smooth, strict=True)]
        if not self.extra:
            for _ in range(self.extra_levels):
                pyramid.append(pyramid[-1][..., ::2, ::2])
            return pyramid
        first, *others = self.extra
        pyramid.append(first(coarsest) + context.mean((-2, -1), keepdim=True))
        for layer in others:
            pyramid.append(layer(pyramid[-1]))
        return pyramid

    def _context(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        pooled = [adaptive_avg_pool2d(x, (max(1, h * tenths // 10), max(1, w * tenths // 10))) for tenths in TENTHS]
        contexts = [
            interpolate(layer(x), size=(h, w), mode="bilinear", align_corners=True) for x, layer in zip(pooled, self.context, strict=True)
        ]
        weights: Tensor = self.weigh(torch.cat(contexts, 1))
        return (weights[:, :, None] * torch.stack(contexts, 1)).sum(1)


class ConsistentSupervision(nn.Module):
    r"""Detects from every lateral by itself, with the same layers, in training only; so the features of all levels become comparable.

    Each box is pooled from every level, whatever its size, and passes two fully connected layers, then one for the classes and one for the
    boxes. `consistent_supervision_loss` is the loss of what comes out. At inference nothing of this is left.

    Args:
        channels: of the laterals.
        classes: number $C$ of foreground classes.
        size: $s$, cells along each side of the pooled features.
        hidden: $d_h$, units of the fully connected layers.
        scale: $1 / s_2$, size of the finest map relative to the image; each level is half as fine as the one before.
    """

    def __init__(self, channels: int, classes: int, *, size: int = 7, hidden: int = 1024, scale: float = 0.25) -> None:
        super().__init__()
        self.channels, self.size, self.scale = channels, size, scale
        self.layers = nn.Sequential(nn.Linear(channels * size * size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
        self.classify, self.regress = nn.Linear(hidden, classes + 1), nn.Linear(hidden, 4 * classes)
        for name, parameter in self.layers.named_parameters():
            nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.xavier_uniform_(parameter)
        for layer, std in ((self.classify, 0.01), (self.regress, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    @checked
    def forward(
        self, levels: Sequence[Tensor], proposals: Float[Tensor, "b n 4"]
    ) -> tuple[Float[Tensor, "b k n c"], Float[Tensor, "b k n foreground 4"]]:
        """Laterals `[b channels h_i w_i]`, and boxes -> from each level, logits, background last, and offsets of each foreground class.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: the channels or the order of the levels does not fit, or `proposals` are no boxes.
        """
        check_levels("ConsistentSupervision", levels, [self.channels] * len(levels))
        pooled = [roi_align(x, proposals, scale=self.scale / 2**i, size=self.size) for i, x in enumerate(levels)]
        x = self.layers(torch.stack(pooled, 1).flatten(3))
        return self.classify(x), self.regress(x).unflatten(-1, (-1, 4))


@checked
def consistent_supervision_loss(
    logits: Float[Tensor, "*batch k n c"],
    offsets: Float[Tensor, "*batch k n 4"],
    labels: Int[Tensor, "*batch n"],
    target: Float[Tensor, "*batch n 4"],
    positive: Bool[Tensor, "*batch n"],
    *,
    weight: float = 0.25,
) -> tuple[Float[Tensor, "*batch k n"], Float[Tensor, "*batch k n"]]:
    r"""Asks the same of every level: the class of each proposal and its offsets, by the targets of the detector itself.

    $$ L_k = \lambda \left( -\ln \mathrm{softmax}(x_k)_y + [y < C] \sum_i \mathrm{smooth}_{L1}(t_{k,i} - \hat t_i) \right) $$

    for a proposal at level $k$. The losses of all levels, each summed and divided by the number of proposals, are added to those of the
    detector.

    Args:
        logits: $x_k$ of $C + 1$ classes from each of the levels, background last.
        offsets: $t_k$ of each proposal's own class.
        labels: class $y$ of each positive, 0 to $C - 1$.
        target: $\hat t$, what the offsets should be; that of background is not used.
        positive: the proposals that stand for an object; the rest is background.
        weight: $\lambda$.

    Returns:
        Classification and regression loss of each proposal at each level; the latter is 0 for background.
    """
    logits, offsets = widen(logits), widen(offsets)
    labels = labels.where(positive, logits.shape[-1] - 1).clamp(max=logits.shape[-1] - 1)[..., None, :]
    by_class = entropy_of_class(logits.log_softmax(-1), labels.long().expand(logits.shape[:-1]))
    target = widen(target).to(offsets.dtype)[..., None, :, :].expand_as(offsets)
    by_box = smooth_l1_loss(offsets, target, reduction="none").sum(-1)
    return weight * by_class, torch.where(positive[..., None, :], weight * by_box, 0)
