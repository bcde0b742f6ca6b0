"""Colours of pixels: how bright they look, and hue and saturation changed by what that does to red, green and blue."""

import torch
from jaxtyping import Float
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import safe_divide, widen

__all__ = ["luminance", "scale_saturation", "turn_hue"]


@checked
def luminance(image: Float[Tensor, "*batch 3 n m"]) -> Float[Tensor, "*batch 1 n m"]:
    """How bright each pixel looks: 0.299 of its red, 0.587 of its green and 0.114 of its blue."""
    red, green, blue = widen(image).chunk(3, -3)
    return 0.299 * red + 0.587 * green + 0.114 * blue


@checked
def scale_saturation(image: Float[Tensor, "*batch 3 n m"], factor: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 n m"]:
    """Multiplies the saturation of HSV, up to 1; hue and the highest channel stay.

    Args:
        image: red, green and blue. A pixel without a positive value becomes grey.
        factor: one for each image, not negative.
    """
    image = widen(image)
    high, chroma = _high_and_chroma(image)
    share = safe_divide(high.clamp(min=0), chroma).minimum(widen(factor)[..., None, None, None])
    return high - (high - image) * share


@checked
def turn_hue(image: Float[Tensor, "*batch 3 n m"], turn: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 n m"]:
    """Turns the hue of HSV; the highest and the lowest value of a pixel stay, though in other channels.

    Args:
        image: red, green and blue.
        turn: share of the circle, one for each image; 1/3 makes red green.
    """
    image = widen(image)
    high, chroma = _high_and_chroma(image)
    red, green, blue = image.chunk(3, -3)
    sixth = torch.where(green == high, safe_divide(blue - red, chroma) + 2, safe_divide(red - green, chroma) + 4)
    sixth = torch.where(red == high, safe_divide(green - blue, chroma), sixth) + 6 * widen(turn)[..., None, None, None]
    away = torch.cat((sixth + 5, sixth + 3, sixth + 1), -3) % 6
    return high - chroma * away.minimum(4 - away).clamp(0, 1)


def _high_and_chroma(image: Tensor) -> tuple[Tensor, Tensor]:
    """The highest value of each pixel, and how far the lowest one is below it."""
    high = image.amax(-3, keepdim=True)
    return high, high - image.amin(-3, keepdim=True)
