"""SSD, prediction from several layers: Liu, Anguelov, Erhan, Szegedy, Reed, Fu and Berg, ECCV 2016."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from reference_impl.ops.boxes import decode_deltas, encode_deltas
from reference_impl.ops.checked import checked
from reference_impl.ops.layout import per_anchor
from reference_impl.ops.levels import check_levels
from reference_impl.ops.numerics import widen

__all__ = ["SSD", "decode_offsets", "encode_offsets"]


class SSD(nn.Module):
    r"""Asks every level for the objects of its own size: one convolution for the classes and one for the boxes, no level sees another.

    The finest level is not as deep as the others and has larger activations. Each location of it is brought to length 1, then every channel
    to a learned scale: $\hat x_c = \gamma_c x_c / \lVert x \rVert_2$.

    Every location has default boxes, of one size on a level:

    $$ s_k = s_{\min} + \frac{s_{\max} - s_{\min}}{m - 1} (k - 1), \qquad w = s_k \sqrt a, \quad h = s_k / \sqrt a $$

    for $k = 1, \dots, m$, after a still finer level with a scale of its own. These are a square of $s_k$, one of $\sqrt{s_k s_{k+1}}$, then
    for each aspect ratio $a$ the wide box and the tall one.

    Training matches them with the ground truth, mines three negatives for each positive, and adds cross entropy to the smooth L1 loss of
    the offsets, divided by the number of positives.

    Args:
        channels: of the levels, finest first; 512, 1024, 512, 256, 256 and 256 for the authors' VGG-16.
        ratios: aspect ratios $a > 1$ of each of the levels, at least three levels; `[[2], [2, 3], [2, 3], [2, 3], [2], [2]]` in SSD300.
        classes: number $C$ of foreground classes.
        strides: pixels between two locations of each level; the authors have 8, 16, 32, 64, 100 and 300. By default the locations are
            spread evenly over the image, whatever its size.
        scale: $\gamma$ at the start.
        finest: scale of the finest level. The scales are in shorter sides of the image.
        smallest: $s_{\min}$ of the second finest level.
        largest: $s_{\max}$, up to rounding.
        decimals: the step from one scale to the next is rounded down to so many; the authors count in whole percents.
        clip: whether boxes end at the border of the image.

    Raises:
        ValueError: there are fewer than three levels, or their numbers do not agree.
    """

    def __init__(
        self,
        channels: Sequence[int],
        ratios: Sequence[Sequence[float]],
        classes: int,
        strides: Sequence[float] | None = None,
        *,
        scale: float = 20.0,
        finest: float = 0.1,
        smallest: float = 0.2,
        largest: float = 0.9,
        decimals: int = 2,
        clip: bool = False,
    ) -> None:
        super().__init__()
        if len(ratios) < 3:
            raise ValueError(f"SSD: `ratios` has {len(ratios)} levels; expected at least 3")
        step = math.floor((largest - smallest) / (len(ratios) - 2) * 10**decimals + 1e-6) / 10**decimals
        scales = [finest, *(smallest + step * k for k in range(len(ratios)))]
        self.shapes = [_shapes(s, above, of_level) for s, above, of_level in zip(scales, scales[1:], ratios, strict=False)]
        self.strides = [None] * len(ratios) if strides is None else list(strides)
        self.channels, self.clip = tuple(channels), clip
        self.scale = nn.Parameter(torch.full((channels[0], 1, 1), scale))
        sizes = [(c, len(of_level)) for c, of_level in zip(channels, self.shapes, strict=True)]
        self.classify = nn.ModuleList(nn.Conv2d(c, anchors * (classes + 1), 3, padding=1) for c, anchors in sizes)
        self.regress = nn.ModuleList(nn.Conv2d(c, anchors * 4, 3, padding=1) for c, anchors in sizes)
        for layer in (*self.classify, *self.regress):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, levels: Sequence[Tensor], height: int, width: int
    ) -> tuple[Float[Tensor, "b n classes"], Float[Tensor, "b n 4"], Float[Tensor, "n 4"]]:
        """Levels `[b channels[i] h_i w_i]`, finest first, and the image's size -> what is predicted for each default box, and the boxes.

        Returns:
            Logits of the classes, background last; offsets, as `encode_offsets` gives them; the boxes, absolute `(x1, y1, x2, y2)` in
            pixels. Level by level, row by row, location by location.

        Raises:
            TypeError: a level is not a floating-point tensor.
            ValueError: their number, their channels or their order does not fit.
        """
        check_levels("SSD", levels, self.channels)
        levels = [normalize(levels[0], dim=1) * self.scale, *levels[1:]]
        anchors = [len(of_level) for of_level in self.shapes]
        logits = [per_anchor(layer(x), anchors=a) for layer, x, a in zip(self.classify, levels, anchors, strict=True)]
        offsets = [per_anchor(layer(x), anchors=a) for layer, x, a in zip(self.regress, levels, anchors, strict=True)]
        return torch.cat(logits, 1), torch.cat(offsets, 1), self._default_boxes(levels, height, width)

    def _default_boxes(self, levels: Sequence[Tensor], height: int, width: int) -> Tensor:
        found, unit = [], min(height, width) / 2
        for level, of_level, stride in zip(levels, self.shapes, self.strides, strict=True):
            rows, columns = level.shape[-2:]
            place = torch.arange(max(rows, columns), device=level.device, dtype=widen(level).dtype) + 0.5
            x = place[:columns].expand(rows, columns) * (stride or width / columns)
            y = place[:rows, None].expand(rows, columns) * (stride or height / rows)
            corners = [(x - w * unit, y - h * unit, x + w * unit, y + h * unit) for w, h in of_level]
            found.append(torch.stack([torch.stack(four, -1) for four in corners], -2).flatten(0, 2))
        x1, y1, x2, y2 = torch.cat(found).unbind(-1)
        if self.clip:
            (x1, x2), (y1, y2) = (x1.clamp(0, width), x2.clamp(0, width)), (y1.clamp(0, height), y2.clamp(0, height))
        return torch.stack((x1, y1, x2, y2), -1)


def _shapes(scale: float, above: float, ratios: Sequence[float]) -> list[tuple[float, float]]:
    """Width and height of the boxes at one location of a level, whose next coarser level has the scale `above`."""
    extra = (scale * above) ** 0.5
    shapes = [(scale, scale), (extra, extra)]
    for ratio in ratios:
        root = ratio**0.5
        shapes += [(scale * root, scale / root), (scale / root, scale * root)]
    return shapes


@checked
def encode_offsets(
    boxes: Float[Tensor, "*#batch n 4"],
    anchors: Float[Tensor, "*#batch n 4"],
    *,
    center_variance: float = 0.1,
    size_variance: float = 0.2,
) -> Float[Tensor, "*#batch n 4"]:
    r"""Gives the targets of all levels one unit, in which they are some ten times as large as shares of an anchor.

    $$ t = \left(\frac{x - x_a}{v_1 w_a}, \frac{y - y_a}{v_2 h_a}, \frac{1}{v_3} \ln\frac{w}{w_a}, \frac{1}{v_4} \ln\frac{h}{h_a}\right) $$

    Offsets count in sizes of the anchor, so that an error weighs the same for small and for large objects.

    Args:
        boxes: ground truth of each anchor, absolute `(x1, y1, x2, y2)` in pixels, with centre $(x, y)$ and size $(w, h)$.
        anchors: the default boxes, the same.
        center_variance: $v_1 = v_2$.
        size_variance: $v_3 = v_4$.

    Returns:
        What the head has to predict; it may be negative.

    Raises:
        ValueError: the shapes do not fit together.
    """
    deltas = encode_deltas(boxes, anchors)
    return torch.cat((deltas[..., :2] / center_variance, deltas[..., 2:] / size_variance), -1)


@checked
def decode_offsets(
    offsets: Float[Tensor, "*#batch n 4"],
    anchors: Float[Tensor, "*#batch n 4"],
    *,
    center_variance: float = 0.1,
    size_variance: float = 0.2,
) -> Float[Tensor, "*#batch n 4"]:
    r"""Turns what the head predicts into boxes: the inverse of `encode_offsets`.

    $$ x = x_a + v_1 t_1 w_a, \quad y = y_a + v_2 t_2 h_a, \quad w = w_a e^{v_3 t_3}, \quad h = h_a e^{v_4 t_4} $$

    The authors then suppress boxes with an IoU above 0.45, class by class, and keep the 200 best of an image.

    Args:
        offsets: $t$, as `SSD` predicts them.
        anchors: the default boxes, absolute `(x1, y1, x2, y2)` in pixels.
        center_variance: $v_1 = v_2$.
        size_variance: $v_3 = v_4$.

    Returns:
        One box for each anchor. A coordinate may be negative.

    Raises:
        ValueError: the shapes do not fit together.
    """
    offsets = widen(offsets)
    return decode_deltas(torch.cat((offsets[..., :2] * center_variance, offsets[..., 2:] * size_variance), -1), anchors)
