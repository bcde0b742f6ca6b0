"""Laws of the bottom-up path."""

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from reference_impl.pyramids import FPN, PathAggregation


def levels(device: str, channels: list[int], size: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, size >> i, size >> i, generator=generator, dtype=torch.float64).to(device) for i, c in enumerate(channels)]


def changes(pyramid: nn.Module, given: list[Tensor]) -> list[list[bool]]:
    """For each level, which outputs a change of it reaches."""
    before = pyramid(given)
    table = []
    for i in range(len(given)):
        after = pyramid([x + 1 if j == i else x for j, x in enumerate(given)])
        table.append([not a.equal(b) for a, b in zip(before, after, strict=True)])
    return table


def test_information_only_goes_up(device: str) -> None:
    pyramid = PathAggregation(3, width=4).double().to(device)
    assert changes(pyramid, levels(device, [4, 4, 4])) == [[j >= i for j in range(3)] for i in range(3)]


def test_behind_fpn_every_level_reaches_every_level(device: str) -> None:
    pyramid = nn.Sequential(FPN([2, 3, 4], width=4), PathAggregation(3, width=4)).double().to(device)
    assert changes(pyramid, levels(device, [2, 3, 4])) == [[True] * 3] * 3


def test_all_levels_but_the_finest_are_rectified(device: str) -> None:
    given, pyramid = levels(device, [4, 4, 4]), PathAggregation(3, width=4).double().to(device)
    finest, *others = pyramid(given)
    assert finest.equal(given[0])
    assert all((x >= 0).all() and (x == 0).any() for x in others)


def test_it_learns(device: str) -> None:
    """It can be taught to bring the size of the finest map to the coarsest level."""
    torch.manual_seed(0)
    given, pyramid = levels(device, [3, 3, 3]), PathAggregation(3, width=3).double().to(device)
    optimiser = torch.optim.Adam(pyramid.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = mse_loss(pyramid(given)[2], given[0][..., ::4, ::4].abs())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
