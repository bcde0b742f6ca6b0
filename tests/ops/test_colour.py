"""Laws of colours, against the conversions of Python's own `colorsys`."""

from colorsys import hsv_to_rgb, rgb_to_hsv, rgb_to_yiq

import torch
from torch import Tensor

from reference_impl.ops.colour import luminance, scale_saturation, turn_hue


def colours(device: str) -> Tensor:
    """Random ones, and those in which channels tie: black, white, the six pure ones and greys."""
    draw = torch.Generator().manual_seed(0)
    ties = torch.cartesian_prod(*[torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)] * 3)
    return torch.cat((torch.rand(40, 3, generator=draw, dtype=torch.float64), ties)).to(device)


def as_image(pixels: Tensor) -> Tensor:
    return pixels.mT[:, :, None]


def test_hue_turns_and_saturation_scales_as_in_hsv(device: str) -> None:
    image = as_image(colours(device))
    for number in (-1.3, -0.25, 0.0, 1 / 3, 0.5, 0.9, 1.0, 1.7):
        turned, scaled = [], []
        for red, green, blue in colours(device).tolist():
            h, s, v = rgb_to_hsv(red, green, blue)
            turned.append(hsv_to_rgb((h + number) % 1, s, v))
            scaled.append(hsv_to_rgb(h, min(s * abs(number), 1), v))
        given = torch.tensor(number, dtype=torch.float64, device=device)
        torch.testing.assert_close(turn_hue(image, given), as_image(torch.tensor(turned, dtype=torch.float64, device=device)))
        torch.testing.assert_close(scale_saturation(image, given.abs()), as_image(torch.tensor(scaled, dtype=torch.float64, device=device)))


def test_red_turns_green_and_green_turns_blue(device: str) -> None:
    pure = torch.eye(3, device=device)
    third = torch.tensor(1 / 3, device=device)
    torch.testing.assert_close(turn_hue(as_image(pure), third), as_image(pure.roll(-1, 0)))


def test_luminance_is_that_of_television(device: str) -> None:
    """`colorsys` rounds its weights to two digits."""
    light = luminance(as_image(colours(device))).flatten()
    for ours, pixel in zip(light.tolist(), colours(device).tolist(), strict=True):
        assert abs(ours - rgb_to_yiq(*pixel)[0]) < 0.01
