"""Laws of the scale-transfer module."""

import pytest
import torch

from reference_impl.pyramids import ScaleTransfer


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (9, [(104, 36), (360, 18), (1280, 9), (1120, 5), (960, 3), (800, 1)]),
        (16, [(104, 64), (400, 32), (1440, 16), (1280, 8), (1120, 4), (960, 2), (800, 1)]),
    ],
)
def test_the_papers_levels(cells: int, expected: list[tuple[int, int]], device: str) -> None:
    """DenseNet-169 on images of 300 and of 513 pixels: channels and sizes as a third-party implementation lists them."""
    found = ScaleTransfer([1664], count=len(expected))([torch.zeros(1, 1664, cells, cells, device=device)])
    assert [tuple(x.shape[1:]) for x in found] == [(channels, size, size) for channels, size in expected]


def test_all_levels_have_the_same_mean(device: str) -> None:
    """Of a map whose channels are alike; with 16 cells to a side no level has parts of unequal size."""
    x = torch.rand(1, 1, 16, 16, dtype=torch.float64, device=device).expand(1, 32, 16, 16)
    for level in ScaleTransfer([32], count=7)([x]):
        torch.testing.assert_close(level.mean(), x.mean())


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


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="`count` is 5; expected 6 or 7"):
        ScaleTransfer([16], count=5)
    with pytest.raises(ValueError, match=r"`channels` is \[8\]; expected at least 16"):
        ScaleTransfer([8])
