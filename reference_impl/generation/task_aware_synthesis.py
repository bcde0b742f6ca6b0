"""Task-aware data synthesis: Tripathi, Chandra, Agrawal, Tyagi, Rehg and Chari, CVPR 2019."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, leaky_relu, softplus

from reference_impl.ops.boxes import mask_box
from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import safe_divide, widen
from reference_impl.ops.warp import bilinear

__all__ = ["RealismNetwork", "SynthesiserNetwork", "discriminator_loss", "synthesiser_loss", "task_aware_synthesis"]

LAYERS = 3
GRID = 4


@checked
def task_aware_synthesis(
    foreground: Float[Tensor, "*batch c n m"],
    alpha: Float[Tensor, "*batch n m"],
    background: Float[Tensor, "*batch c n m"],
    transform: Float[Tensor, "*batch 6"],
) -> tuple[Float[Tensor, "*batch c n m"], Float[Tensor, "*batch n m"], Float[Tensor, "*batch 4"]]:
    r"""Puts a cut-out object into an image where a network wants it: where the detector is worst and the image still looks real.

    $$ f \oplus b = \alpha' f' + (1 - \alpha')\, b, \qquad p' - p_c = R(\varphi) \begin{pmatrix} 1 & h \\ 0 & 1 \end{pmatrix}
    \begin{pmatrix} s_x & 0 \\ 0 & s_y \end{pmatrix} (p - p_c) + t $$

    Object $f$ and mask $\alpha$ are transformed alike around the centre $p_c$ of the image, with bilinear interpolation, and laid over the
    scene $b$. The image is differentiable with respect to the transform, so the `SynthesiserNetwork` that predicts it learns from the loss
    of the detector and from the discriminator. After each step of the synthesiser, the detector is trained with the image and its box
    beside the real ones. So that it does not learn seams, the authors put seams into the background, too: they paste other backgrounds the
    same way, without a box.

    Args:
        foreground: image of the object, `n` rows of `m` pixels.
        alpha: its mask, in [0, 1].
        background: the scene.
        transform: $\varphi$ in radians, shear $h$, scales $s_x, s_y > 0$, and the shift $t$ as a share of width and height. With y
            downwards, a positive angle turns clockwise.

    Returns:
        The image, which may be negative where its parts were; the transformed mask; and the tight box `(x1, y1, x2, y2)` of the pixels
        that are more object than scene, (0, 0, 0, 0) where none is.

    Raises:
        ValueError: the shapes do not fit together.
    """
    foreground, transform = widen(foreground), widen(transform)
    angle, shear, scale_x, scale_y, shift_x, shift_y = (x[..., None, None] for x in transform.unbind(-1))
    n, m = alpha.shape[-2:]
    y = torch.arange(n, device=alpha.device, dtype=transform.dtype)[:, None] - (n - 1) / 2 - shift_y * n
    x = torch.arange(m, device=alpha.device, dtype=transform.dtype) - (m - 1) / 2 - shift_x * m
    turned_x, turned_y = angle.cos() * x + angle.sin() * y, angle.cos() * y - angle.sin() * x
    from_x = safe_divide(turned_x - shear * turned_y, scale_x) + (m - 1) / 2
    from_y = safe_divide(turned_y, scale_y) + (n - 1) / 2
    layers = bilinear(torch.cat((foreground, widen(alpha)[..., None, :, :]), -3), from_x, from_y)
    opacity = layers[..., -1, :, :] * ((scale_x > 0) & (scale_y > 0))
    image = torch.lerp(background.to(layers.dtype), layers[..., :-1, :, :], opacity[..., None, :, :])
    return image, opacity, mask_box(opacity > 0.5).to(image.dtype)


class SynthesiserNetwork(nn.Module):
    r"""The first player: looks at object and scene through the same convolutions, and says where and how the object goes.

    It is trained with `synthesiser_loss` while the other two players stay as they are. At first it leaves the object as it is. The authors'
    network takes its features from the layers of a known classifier.

    Args:
        channels: $C$ of the images.
        width: $C_1$, channels of the first convolution; each has twice as many as the one before.
        hidden: $C_h$, width of the layer that sees both features.
        max_degrees: $\varphi_{max}$, largest angle to either side, in degrees.
        max_shear: $h_{max}$, largest shear to either side.
        max_scale: $s_{max} - 1$, by how much a scale may differ from 1.
        max_shift: $t_{max}$, largest shift, as a share of the image.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int = 32,
        hidden: int = 256,
        max_degrees: float = 20.0,
        max_shear: float = 0.2,
        max_scale: float = 0.2,
        max_shift: float = 0.5,
    ) -> None:
        super().__init__()
        self.layers = _layers(channels, width)
        self.hidden = nn.Linear(2 * width * 2 ** (LAYERS - 1) * GRID**2, hidden)
        self.transform = nn.Linear(hidden, 6)
        nn.init.zeros_(self.transform.weight)
        nn.init.zeros_(self.transform.bias)
        self.limits = (math.radians(max_degrees), max_shear, max_scale, max_scale, max_shift, max_shift)

    @checked
    def forward(
        self, foreground: Float[Tensor, "b c n m"], alpha: Float[Tensor, "b n m"], background: Float[Tensor, "b c n m"]
    ) -> Float[Tensor, "b 6"]:
        """Object, mask and scene -> the transform that `task_aware_synthesis` takes."""
        x = torch.cat((foreground * alpha[:, None], background))
        for layer in self.layers:
            x = layer(x).relu()
        both = torch.cat(adaptive_avg_pool2d(x, GRID).flatten(1).chunk(2), -1)
        share = self.transform(self.hidden(both).relu()).tanh()
        rest = (0, 0, 1, 1, 0, 0)
        return torch.stack([r + limit * share[:, i] for i, (r, limit) in enumerate(zip(rest, self.limits, strict=True))], -1)


class RealismNetwork(nn.Module):
    """The second player, the discriminator: tells real images from composed ones. It is trained with `discriminator_loss`.

    Args:
        channels: $C$ of the images.
        width: $C_1$, channels of the first convolution; each has twice as many as the one before.
    """

    def __init__(self, *, channels: int = 3, width: int = 32) -> None:
        super().__init__()
        self.layers = _layers(channels, width)
        self.last = nn.Linear(width * 2 ** (LAYERS - 1), 1)

    @checked
    def forward(self, image: Float[Tensor, "b c n m"]) -> Float[Tensor, "b"]:
        """The logit of each image to be real."""
        for layer in self.layers:
            image = leaky_relu(layer(image), 0.2)
        logits: Tensor = self.last(image.mean((-2, -1)))
        return logits.squeeze(-1)


@checked
def discriminator_loss(real_logits: Float[Tensor, "*batch"], logits: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    r"""Teaches the discriminator what is real.

    $$ L_D = -\ln D(x) - \ln\big(1 - D(f \oplus b)\big) $$

    Args:
        real_logits: what the `RealismNetwork` says of real images $x$.
        logits: what it says of composed ones, which must carry no gradient to the synthesiser here.

    Returns:
        One loss for each pair.
    """
    return softplus(-widen(real_logits)) + softplus(widen(logits))


@checked
def synthesiser_loss(loss: Float[Tensor, "*batch"], logits: Float[Tensor, "*batch"], *, realism: float = 1.0) -> Float[Tensor, "*batch"]:
    r"""Teaches the synthesiser to make images that the detector gets wrong and the discriminator takes for real.

    $$ L_S = -L_T(f \oplus b) - \lambda \ln D(f \oplus b) $$

    Args:
        loss: $L_T$, the detector's own loss on the composed image and its box; the detector, trained beforehand, is the third player.
        logits: what the `RealismNetwork` says of that image.
        realism: $\lambda$, weight of the discriminator.

    Returns:
        One loss for each image, which may be negative.
    """
    return realism * softplus(-widen(logits)) - widen(loss)


def _layers(channels: int, width: int) -> nn.ModuleList:
    """Convolutions that halve the image and double the channels."""
    return nn.ModuleList(nn.Conv2d(width * 2 ** (i - 1) if i else channels, width * 2**i, 3, stride=2, padding=1) for i in range(LAYERS))
