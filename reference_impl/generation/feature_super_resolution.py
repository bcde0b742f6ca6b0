"""Feature super-resolution for small objects: Noh, Bae, Lee, Seo and Kim, ICCV 2019."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pad, relu, softplus

from reference_impl.ops.boxes import box_area
from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen

__all__ = [
    "FeatureDiscriminator",
    "FeatureSuperResolution",
    "TargetExtractor",
    "choose_predictor",
    "feature_discriminator_loss",
    "feature_generator_loss",
    "receptive_field_mismatch",
]

STRANGERS = (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.ConvTranspose2d, nn.LPPool2d, nn.Unfold, nn.Upsample)


@checked
def receptive_field_mismatch(
    width: Float[Tensor, "*batch n"], *, receptive_field: float = 196.0, stride: float = 16.0
) -> Float[Tensor, "*batch n"]:
    r"""Says how much more of its image the features of a small region see in a half-size image, if one backbone extracts both.

    $$ \frac{\mathrm{RRF}(w / 2, I / 2)}{\mathrm{RRF}(w, I)} = 2 - \frac{w}{c + w}, \quad \mathrm{RRF}(w, I) = \frac{R + (w - 1) \Delta}{I},
    \quad c = \frac{R}{\Delta} - 1 $$

    RRF is the relative receptive field, the share of an image $I$ pixels wide that the region's features see. For a large region the ratio
    is 1: both see the same part of the scene. A small one sees twice as much surroundings at half size, so what it looks like at full
    size is no target for what it looks like at half size. That is why the `TargetExtractor` is dilated.

    Args:
        width: $w$ of a region at full size, in cells of the features.
        receptive_field: $R$ of one cell, in pixels; 196 for the last convolution of VGG-16.
        stride: $\Delta$ of the features, in pixels.

    Returns:
        The ratio of the two relative receptive fields, from 1 to 2.

    Raises:
        ValueError: the shapes do not fit together.
    """
    width = widen(width)
    return 2 - width / (receptive_field / stride - 1 + width)


class TargetExtractor(nn.Module):
    """The backbone with every filter dilated: features at full size that see as much of the scene as the backbone sees at half size.

    It has the backbone's own parameters and buffers, and no gradient. Convolutions and max pooling reach twice as far. A convolution
    with a stride moves by single pixels instead and is followed by max pooling with that stride, so that none of its inputs is passed over.

    Args:
        backbone: a module whose layers are convolutions that pad with zeros, max pooling, and elementwise layers.

    Raises:
        TypeError: the backbone has a layer of another kind that looks at neighbouring pixels.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.layers = _dilated(backbone)

    @checked
    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k rows columns"]:
        """Image at full size -> features, with as many rows and columns as the backbone's if only its strides change the size."""
        with torch.no_grad():
            features: Tensor = self.layers(image)
        return features


def _dilated(module: nn.Module) -> nn.Module:
    """A module that shares all parameters and buffers with the given one, and reaches twice as far."""
    pads_otherwise = isinstance(module, nn.Conv2d) and (module.padding_mode != "zeros" or isinstance(module.padding, str))
    if pads_otherwise or isinstance(module, STRANGERS):
        raise TypeError(f"TargetExtractor: the backbone has {module}; expected convolutions that pad with zeros, and max pooling only")
    if isinstance(module, nn.MaxPool2d):
        return _DilatedMaxPool(module)
    twin: nn.Module = object.__new__(type(module))
    twin.__dict__.update(module.__dict__, _modules={name: child and _dilated(child) for name, child in module._modules.items()})
    if not isinstance(twin, nn.Conv2d):
        return twin
    stride = twin.stride
    twin.padding, twin.dilation, twin.stride = tuple(2 * int(p) for p in twin.padding), tuple(2 * d for d in twin.dilation), (1, 1)
    return twin if stride == (1, 1) else nn.Sequential(twin, nn.MaxPool2d(stride, stride, ceil_mode=True))


class _DilatedMaxPool(nn.Module):
    """Max pooling of every second pixel, that gives as many rows and columns as of every pixel: what is missing is added at the end."""

    def __init__(self, pooling: nn.MaxPool2d) -> None:
        super().__init__()
        size, stride, padding, dilation = (
            x if isinstance(x, tuple) else (x, x) for x in (pooling.kernel_size, pooling.stride, pooling.padding, pooling.dilation)
        )
        self.pooling = nn.MaxPool2d(size, stride, 0, (2 * dilation[0], 2 * dilation[1]), ceil_mode=pooling.ceil_mode)
        (top, left), (bottom, right) = ([2 * p for p in padding], [(k - 1) * d for k, d in zip(size, dilation, strict=True)])
        self.border = (left, right, top, bottom)

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.pooling(pad(x, self.border, value=-torch.inf))
        return pooled


class FeatureSuperResolution(nn.Module):
    r"""The generator: pooled features of a small region in, what they would be if the region were twice as large out.

    $$ S = F + G(F, F_{sub}) $$

    It is trained on regions of a half-size image, whose targets are the `TargetExtractor`'s features of the same regions at full size, and
    used on the small regions of the image itself. The pooled features keep their size. Deep features hold little of a small object, so
    those of a shallower layer are added. At the start $S = F$.

    Args:
        channels: of the pooled features $F$.
        detail_channels: of the pooled features $F_{sub}$ of a shallower layer.
        width: $d$, channels of the inner layers.
        blocks: $B$, number of residual blocks.
    """

    def __init__(self, channels: int, detail_channels: int, *, width: int = 256, blocks: int = 2) -> None:
        super().__init__()
        self.join = nn.Conv2d(channels + detail_channels, width, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)) for _ in range(blocks)
        )
        self.last = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    @checked
    def forward(self, features: Float[Tensor, "*batch c n m"], detail: Float[Tensor, "*batch d n m"]) -> Float[Tensor, "*batch c n m"]:
        """Pooled features and those of a shallower layer, pooled to the same grid -> features as of a larger region, on that grid.

        Raises:
            ValueError: the shapes do not fit together.
        """
        x = relu(self.join(torch.cat((features, detail), -3).flatten(0, -4)))
        for block in self.blocks:
            x = x + block(x)
        change: Tensor = self.last(x)
        return features + change.view_as(features)


class FeatureDiscriminator(nn.Module):
    """The opponent: tells features that the `TargetExtractor` saw from features that the generator made. Three layers.

    Args:
        channels: of the pooled features.
        size: $K$, rows and columns of them.
        hidden: $d_D$, units of the two inner layers.
    """

    def __init__(self, channels: int, *, size: int = 7, hidden: int = 1024) -> None:
        super().__init__()
        self.first = nn.Linear(channels * size * size, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 1)

    @checked
    def forward(self, features: Float[Tensor, "*batch c n m"]) -> Float[Tensor, "*batch"]:
        """One logit for each region, high for targets."""
        x = leaky_relu(self.first(features.flatten(-3)), 0.2)
        logits: Tensor = self.last(leaky_relu(self.second(x), 0.2))
        return logits.squeeze(-1)


@checked
def feature_generator_loss(
    pred: Float[Tensor, "*batch c n m"], target: Float[Tensor, "*batch c n m"], logits: Float[Tensor, "*batch"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""Pulls the generated features towards their own target, and towards whatever the discriminator takes for a target.

    $$ L_{cont} = \lVert T - S \rVert_2^2, \qquad L_{gen} = -\ln D(S) $$

    No gradient reaches the target.

    Args:
        pred: generated features $S$ of each region.
        target: $T$, the `TargetExtractor`'s features of the same region at full size.
        logits: of the discriminator $D$ on `pred`.

    Returns:
        Content and adversarial loss of each region, >= 0.

    Raises:
        ValueError: the shapes do not fit together.
    """
    content = (widen(pred) - widen(target.detach())).square().sum((-3, -2, -1))
    return content, softplus(-widen(logits))


@checked
def feature_discriminator_loss(logits: Float[Tensor, "*batch n"], target_logits: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    r"""Teaches the discriminator to tell the two kinds of features apart.

    $$ L_{dis} = -\ln D(T) - \ln(1 - D(S)) $$

    Args:
        logits: of the discriminator on generated features, which are detached for it.
        target_logits: on the targets of the same regions.

    Returns:
        One loss for each region, >= 0.

    Raises:
        ValueError: the shapes do not fit together.
    """
    return softplus(-widen(target_logits)) + softplus(widen(logits))


@checked
def choose_predictor(
    boxes: Float[Tensor, "*batch n 4"], small: Float[Tensor, "*batch n k"], large: Float[Tensor, "*batch n k"], *, threshold: float = 32.0
) -> Float[Tensor, "*batch n k"]:
    r"""Takes, for small regions, the prediction made from generated features, and for all others the usual prediction.

    $$ y = \begin{cases} y_s, & \sqrt{w h} < \tau \\ y_l, & \text{otherwise} \end{cases} $$

    The predictor $y_s$ for small regions has the layers of the usual one, $y_l$, and begins with its weights; $w$ and $h$ are the sides of
    the region.

    Args:
        boxes: the regions, absolute `(x1, y1, x2, y2)` in pixels.
        small: any prediction for each region from super-resolved features.
        large: the same from the features as they are.
        threshold: $\tau$ in pixels.

    Returns:
        One prediction for each region; it may be negative where these are.

    Raises:
        ValueError: the shapes do not fit together.
    """
    is_small = box_area(boxes).sqrt() < threshold
    return torch.where(is_small[..., None], widen(small), widen(large))
