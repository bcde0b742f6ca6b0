"""Laws of the feature pyramid network."""

import torch
from torch import Tensor

from reference_impl.pyramids import FPN, roi_level


def backbone(device: str, channels: list[int], size: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, size >> i, size >> i, generator=generator, dtype=torch.float64).to(device) for i, c in enumerate(channels)]


def test_information_only_goes_down(device: str) -> None:
    """A change of a backbone level reaches its own pyramid level and all finer ones, and no coarser one."""
    levels, pyramid = backbone(device, [2, 3, 4]), FPN([2, 3, 4], width=5).double().to(device)
    before = pyramid(levels)
    for i in range(3):
        touched = [x + 1 if j == i else x for j, x in enumerate(levels)]
        changed = [not a.equal(b) for a, b in zip(before, pyramid(touched), strict=True)]
        assert changed == [j <= i for j in range(3)]


def test_it_is_linear_without_biases(device: str) -> None:
    """There is no activation in it."""
    levels, pyramid = backbone(device, [2, 3]), FPN([2, 3], width=4).double().to(device)
    for a, b in zip(pyramid([3 * x for x in levels]), pyramid(levels), strict=True):
        torch.testing.assert_close(a, 3 * b)


def test_extra_levels_are_every_second_location(device: str) -> None:
    *_, p5, p6, p7 = FPN([2, 3], width=4, extra_levels=2).double().to(device)(backbone(device, [2, 3]))
    assert p6.equal(p5[..., ::2, ::2])
    assert p7.equal(p5[..., ::4, ::4])


def test_a_level_holds_one_octave_of_sizes(device: str) -> None:
    size = torch.linspace(1, 2000, 4000, dtype=torch.float64, device=device)
    boxes = torch.stack((0 * size, 0 * size, size, size), -1)
    level = roi_level(boxes)
    assert (level.diff() >= 0).all()
    for k in (3, 4):
        held = size[level == k]
        assert held.min() >= 224 * 2 ** (k - 4)
        assert held.max() < 224 * 2 ** (k - 3)
