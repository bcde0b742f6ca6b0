"""Laws of Hit-Detector's neck."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from reference_impl.measure import path_lengths, trace
from reference_impl.pyramids import HitDetector


def levels(device: str, size: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(c, size >> i) for i, c in enumerate((2, 3, 4, 5))]
    return [torch.randn(2, c, s, s, generator=generator, dtype=torch.float64).to(device) for c, s in shapes]


def pyramid(device: str) -> HitDetector:
    torch.manual_seed(0)
    return HitDetector([2, 3, 4, 5], width=6).double().to(device)


def test_every_level_reaches_every_level() -> None:
    """The way from C5 down to the finest level, and from C2 up to the coarsest one, has a finite number of layers."""
    lengths = path_lengths(trace(pyramid("cpu").eval(), levels("cpu")))
    assert lengths.shape == (4, 4)
    assert lengths.isfinite().all()
    assert (lengths >= 0).all()


def test_a_cell_sees_as_far_as_its_dilation(device: str) -> None:
    """At the finest level: a 5 x 5 window of dilation 3, then a 3 x 3 one of dilation 3: nine cells to each side and no more."""
    module = pyramid(device).eval()
    given = [x.repeat(1, 1, 2, 2).requires_grad_() for x in levels(device)]
    module(given)[0][0, :, 16, 16].sum().backward()
    assert given[0].grad is not None
    seen = given[0].grad[0].abs().sum(0).nonzero() - 16
    assert seen.min().item() == -9
    assert seen.max().item() == 9
    assert (seen % 3 == 0).all()


def test_it_is_made_for_four_levels() -> None:
    with pytest.raises(ValueError, match="`channels` has 3 entries; expected 4"):
        HitDetector([2, 3, 4])


def test_it_learns(device: str) -> None:
    """It can be taught to bring the finest map to the coarsest level."""
    given, module = levels(device), pyramid(device)
    target = given[0][:, :1].reshape(2, 1, 2, 8, 2, 8).mean((3, 5)) * 8
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = mse_loss(module(given)[3][:, :1], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
