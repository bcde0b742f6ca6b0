"""AugFPN: Guo, Fan, Zhang, Xiang and Pan, CVPR 2020."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from reference_impl.ops.levels import check_levels, upsample_like

__all__ = ["AugFPN"]

# The contexts of the coarsest map: how many tenths of its height and width each of them has.
TENTHS = (1, 2, 3)


class AugFPN(nn.Module):
    r"""Gives the coarsest level of an FPN a context to add to itself, as every other level has one above it.

    $$ X_r = \mathrm{up}\bigl(\mathrm{conv}_{1\times 1}^{r}(\mathrm{pool}_{rh \times rw}(C_5))\bigr), \qquad
    M_5 = \mathrm{conv}_{1\times 1}(C_5) + \sum_{r} \sigma(w_r) X_r, \qquad r \in \{0.1, 0.2, 0.3\} $$

    Pooling takes the mean of each part, and keeps the shape of the image, whatever it is: ratio-invariant adaptive pooling. The logits
    $w_r$, one a position and context, come from all three contexts stacked, by a 1 x 1 and a 3 x 3 convolution with a ReLU between:
    adaptive spatial fusion. From $M_5$ on it is an FPN, which carries the context down to all levels.

    Consistent supervision is a training loss: a second box head, one for all levels, is trained on the boxes pooled from each of
    `laterals`, with the detector's own targets and a quarter of its weight, and is dropped afterwards.

    Args:
        channels: of the backbone levels $C_i$, finest first; for ResNet-50's $C_2$ to $C_5$ these are 256, 512, 1024 and 2048.
        width: channels of every pyramid level.
        extra_levels: how many coarser levels to add by taking every second location of the last.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 256, extra_levels: int = 0) -> None:
        super().__init__()
        self.channels, self.extra_levels = tuple(channels), extra_levels
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.context = nn.ModuleList(nn.Conv2d(self.channels[-1], width, 1) for _ in TENTHS)
        self.weigh = nn.Sequential(
            nn.Conv2d(len(TENTHS) * width, width, 1), nn.ReLU(), nn.Conv2d(width, len(TENTHS), 3, padding=1), nn.Sigmoid()
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                assert layer.bias is not None
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def laterals(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Backbone levels -> the maps `[b width h_i w_i]` before any of them is fused, on which consistent supervision trains."""
        return [lateral(x) for x, lateral in zip(levels, self.lateral, strict=True)]

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Backbone levels `[b channels[i] h_i w_i]`, finest first -> as many pyramid levels `[b width h_i w_i]`, and the extra ones.

        Sizes need not be multiples of each other.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("AugFPN", levels, self.channels)
        *finer, merged = self.laterals(levels)
        pyramid = [merged + self._context(levels[-1])]
        for x in reversed(finer):
            pyramid.insert(0, x + upsample_like(pyramid[0], x))
        pyramid = [smooth(x) for x, smooth in zip(pyramid, self.smooth, strict=True)]
        for _ in range(self.extra_levels):
            pyramid.append(pyramid[-1][..., ::2, ::2])
        return pyramid

    def _context(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        pooled = [adaptive_avg_pool2d(x, (max(1, h * tenths // 10), max(1, w * tenths // 10))) for tenths in TENTHS]
        contexts = [
            interpolate(layer(x), size=(h, w), mode="bilinear", align_corners=True) for x, layer in zip(pooled, self.context, strict=True)
        ]
        weights: Tensor = self.weigh(torch.cat(contexts, 1))
        return (weights[:, :, None] * torch.stack(contexts, 1)).sum(1)
