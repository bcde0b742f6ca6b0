"""Laws of the zoom out-and-in network and its map attention decision."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate, mse_loss

from reference_impl.pyramids import ZoomOutAndIn

CHANNELS = [4, 20, 32]


def levels(device: str, rows: int = 16, columns: int = 20) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, c, -(-rows >> i), -(-columns >> i)) for i, c in enumerate(CHANNELS)]
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).to(device) for shape in shapes]


def network(device: str, *, attention: bool = True) -> ZoomOutAndIn:
    torch.manual_seed(0)
    return ZoomOutAndIn(CHANNELS, attention=attention, reduction=4).double().to(device)


def test_nothing_of_the_backbone_enters_on_the_way(device: str) -> None:
    """What is zoomed in depends on the deepest map alone; each backbone map is in its own stack, unchanged, the deepest alone."""
    module, given = network(device, attention=False).eval(), levels(device)
    before = module(given)
    for x, c, stack in zip(given[:-1], CHANNELS, before, strict=False):
        assert stack[:, :c].equal(x)
        assert stack.shape[1] == 2 * c
    assert before[-1].equal(given[-1])
    for i in range(3):
        after = module([x + 1 if j == i else x for j, x in enumerate(given)])
        inward = [a[:, c:].equal(b[:, c:]) for a, b, c in zip(before[:-1], after, CHANNELS, strict=False)]
        assert inward == [i != 2] * 2


def test_enlarging_is_bilinear(device: str) -> None:
    """But at the border, where nothing is outside."""
    x = levels(device)[2]
    twice = network(device)._enlarge(x, x.new_empty(1, 1, 2 * x.shape[-2], 2 * x.shape[-1]))
    expected = interpolate(x, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(twice[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    torch.testing.assert_close(twice[..., 0, 1:-1], 0.75 * expected[..., 0, 1:-1])


@pytest.mark.parametrize("rows", [13, 14, 15, 16])
def test_what_is_enlarged_is_cut_off(device: str, rows: int) -> None:
    given = levels(device, rows)
    assert [x.shape[-2:] for x in network(device)(given)] == [x.shape[-2:] for x in given]


def weights(module: ZoomOutAndIn, given: list[Tensor]) -> list[Tensor]:
    """What MAD weighs each channel of each stack with, `[b c]`; a channel has one weight for the whole map."""
    plain = network(given[0].device.type, attention=False).eval()
    plain.load_state_dict(module.state_dict(), strict=False)
    found = []
    for weighed, stack in zip(module(given)[:-1], plain(given), strict=False):
        weight = weighed.sum((-2, -1)) / stack.sum((-2, -1))
        torch.testing.assert_close(weight[..., None, None] * stack, weighed)
        found.append(weight)
    return found


def test_the_deepest_map_decides(device: str) -> None:
    """A weight is between 0 and 1, is another for another image, and does not hear the finer maps, not even the one that it weighs."""
    module, given = network(device).eval(), levels(device)
    found = weights(module, given)
    assert [weight.shape[1] for weight in found] == [2 * c for c in CHANNELS[:-1]]
    for weight in found:
        assert ((weight > 0) & (weight < 1)).all()
        assert not weight[0].allclose(weight[1])
    for a, b in zip(found, weights(module, [given[0] + 1, given[1] - 2, given[2]]), strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(found, weights(module, [*given[:2], given[2] + 1]), strict=True):
        assert not a.allclose(b)


def test_seven_channels_are_enough_for_all_branches(device: str) -> None:
    small = ZoomOutAndIn([1, 7, 7]).to(device)
    assert all(x.numel() for x in small.parameters())
    assert [x.shape[1] for x in small([torch.ones(2, c, 4, 4, device=device) for c in (1, 7, 7)])] == [2, 14, 7]
    for channels in ([64], [1, 6]):
        with pytest.raises(ValueError, match="expected two or more, from the second on at least 7"):
            ZoomOutAndIn(channels)


def test_it_learns(device: str) -> None:
    """It can be taught to show the deepest map in one channel of the finest stack, and to silence the rest."""
    module, given = network(device), levels(device)
    target = torch.zeros(2, 8, 16, 20, dtype=torch.float64, device=device)
    target[:, 4] = interpolate(given[2][:, :1], scale_factor=4, mode="bilinear")[:, 0]
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss = mse_loss(module(given)[0], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
