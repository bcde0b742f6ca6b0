"""Laws of the connected groups of pixels."""

import pytest
import torch
from torch import Tensor

from reference_impl.ops import components
from reference_impl.ops.components import _without_looking, connected_components


def by_search(mask: Tensor) -> Tensor:
    """From one pixel to all that it touches, and on from there."""
    height, width = mask.shape
    left, label = {(y, x) for y, x in mask.nonzero().tolist()}, torch.full((height, width), -1)
    while left:
        together, waiting = [], [left.pop()]
        while waiting:
            y, x = waiting.pop()
            together.append((y, x))
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            waiting += near
        for y, x in together:
            label[y, x] = max(y * width + x for y, x in together)
    return label


def snake(side: int) -> Tensor:
    """One path through the whole map."""
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[::2] = True
    mask[1::4, -1] = True
    mask[3::4, 0] = True
    return mask


@pytest.mark.parametrize("share", [0.1, 0.3, 0.4, 0.5, 0.9])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (31, 37)])
def test_it_is_what_a_search_finds(size: tuple[int, int], share: float, device: str) -> None:
    mask = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) < share
    expected = torch.stack([by_search(own) for own in mask])
    assert connected_components(mask.to(device)).cpu().equal(expected)


def test_a_long_way_takes_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path of 20 000 pixels."""
    rounds = []
    monkeypatch.setattr(components, "pad", lambda *args, **kwargs: rounds.append(1) or torch.nn.functional.pad(*args, **kwargs))
    path = snake(201)
    for mask in (path, path.flip(0), path.T, path.T.flip(1)):
        rounds.clear()
        label = connected_components(mask)
        assert label[mask].eq(mask.flatten().nonzero().max()).all()
        assert len(rounds) < 25


@pytest.mark.parametrize("share", [0.2, 0.4, 0.6])
def test_rounds_that_nobody_counts_are_enough(share: float) -> None:
    mask = torch.rand(60, 70, generator=torch.Generator().manual_seed(1)) < share
    for each in (mask, snake(61)):
        place = torch.arange(each.numel()).view_as(each)
        assert _without_looking(each, torch.where(each, place, -1)).equal(connected_components(each))
