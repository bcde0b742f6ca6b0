"""Laws of the balanced feature pyramid."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from reference_impl.measure import backbone_shares, effective_number
from reference_impl.pyramids import BalancedFeaturePyramid


def levels(device: str, width: int = 4, size: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, width, size >> i, size >> i, generator=generator, dtype=torch.float64).to(device) for i in range(4)]


def test_it_starts_as_the_mean(device: str) -> None:
    """The block's last layer is 0 at first, so that refining changes nothing."""
    given = levels(device)
    refined, plain = (BalancedFeaturePyramid(4, width=4, refine=r).double().to(device)(given) for r in (True, False))
    for a, b in zip(refined, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_what_is_added_is_the_same_at_all_levels(device: str) -> None:
    """At the size of the mean or finer, each residual is the mean, repeated."""
    given = levels(device)
    added = [a - x for a, x in zip(BalancedFeaturePyramid(4, width=4, refine=False).double().to(device)(given), given, strict=True)]
    torch.testing.assert_close(added[0][..., ::4, ::4], added[2])
    torch.testing.assert_close(added[1][..., ::2, ::2], added[2])
    torch.testing.assert_close(added[3], torch.nn.functional.max_pool2d(added[2], 2))


def test_every_level_reaches_every_level_evenly(device: str) -> None:
    """Before, a level holds only itself; after, each has a part of all."""
    torch.manual_seed(0)
    effective = effective_number(backbone_shares(BalancedFeaturePyramid(4, width=4).double().to(device), levels(device)))
    assert (effective > 1.1).all()


def test_a_location_sees_the_whole_image(device: str) -> None:
    torch.manual_seed(0)
    pyramid, given = BalancedFeaturePyramid(4, width=4).double().to(device), levels(device)
    torch.nn.init.normal_(pyramid.refine.out.weight)  # type: ignore[union-attr]
    before = pyramid(given)[2]
    given[2] = given[2].clone()
    given[2][..., 0, 0] += 1
    assert (pyramid(given)[2] != before).any(1).all()


def test_by_a_convolution_a_location_sees_its_neighbours(device: str) -> None:
    torch.manual_seed(0)
    pyramid, given = BalancedFeaturePyramid(4, width=4, attend=False).double().to(device), levels(device, size=32)
    for parameter in pyramid.parameters():
        parameter.data.abs_()
    given = [x.abs() for x in given]
    before = pyramid(given)[2]
    given[2] = given[2].clone()
    given[2][..., 4, 4] += 1
    rows, columns = (pyramid(given)[2] != before).any(1).any(0).nonzero().T.tolist()
    assert (min(rows), max(rows)) == (min(columns), max(columns)) == (3, 5)


@pytest.mark.parametrize("attend", [True, False])
def test_it_learns(device: str, attend: bool) -> None:
    """It can be taught to turn the mean into twice the mean."""
    torch.manual_seed(0)
    given, pyramid = levels(device), BalancedFeaturePyramid(4, width=4, attend=attend).double().to(device)
    plain = BalancedFeaturePyramid(4, width=4, refine=False)(given)
    optimiser = torch.optim.Adam(pyramid.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        loss = mse_loss(pyramid(given)[2], 2 * plain[2] - given[2])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 1.5


@pytest.mark.parametrize("level", [-1, 3])
def test_a_level_that_is_not_there_is_named(level: int) -> None:
    with pytest.raises(ValueError, match=rf"`refine_level` is {level}; expected 0 to 2"):
        BalancedFeaturePyramid(3, width=4, refine_level=level)
