"""Laws of the scale-transfer module."""

import pytest
import torch

from reference_impl.pyramids import ScaleTransfer


def test_the_papers_levels(device: str) -> None:
    """DenseNet-169 on an image of 300 pixels: sizes and channels as a third-party implementation lists them."""
    found = ScaleTransfer([1664])([torch.zeros(1, 1664, 9, 9, device=device)])
    assert [tuple(x.shape[1:]) for x in found] == [(104, 36, 36), (360, 18, 18), (1280, 9, 9), (1120, 5, 5), (960, 3, 3), (800, 1, 1)]


def test_smaller_levels_hold_means(device: str) -> None:
    """Nine cells in a square: means of two by two, with what is there at the rim, and one mean of three by three."""
    x = torch.zeros(1, 16, 3, 3, dtype=torch.float64, device=device)
    x[0, 0] = torch.arange(1, 10).reshape(3, 3)
    *_, half, third, ninth = ScaleTransfer([16])([x])
    assert half[0, 0].tolist() == [[3.0, 4.5], [7.5, 9.0]]
    assert third[0, 0].item() == ninth[0, 0].item() == 5


def test_nothing_is_lost_or_made_up(device: str) -> None:
    """The largest level holds the numbers of the map, in other places."""
    x = torch.rand(2, 32, 3, 5, dtype=torch.float64, device=device)
    largest = ScaleTransfer([32])([x])[0]
    assert largest.flatten(1).sort().values.equal(x.flatten(1).sort().values)


def test_too_few_channels() -> None:
    with pytest.raises(ValueError, match=r"`channels` is \[8\]; expected at least 16"):
        ScaleTransfer([8])
