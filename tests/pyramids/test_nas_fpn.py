"""Laws of NAS-FPN."""

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from reference_impl.measure import path_lengths, trace
from reference_impl.ops.levels import upsample_like
from reference_impl.pyramids import NASFPN


def levels(device: str, size: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(c, size >> i) for i, c in enumerate((2, 3, 4))]
    return [torch.randn(2, c, s, s, generator=generator, dtype=torch.float64).to(device) for c, s in shapes]


def pyramid(device: str, stacks: int = 1) -> NASFPN:
    torch.manual_seed(0)
    return NASFPN([2, 3, 4], width=6, stacks=stacks).double().to(device)


def test_five_levels_of_halving_size(device: str) -> None:
    assert [x.shape[-1] for x in pyramid(device)(levels(device))] == [16, 8, 4, 2, 1]


def test_the_ways_of_the_found_network(device: str) -> None:
    """Layers on the shortest way, from the table: C3 reaches P3 by its lateral layer and one cell, and P4 and P5 by one cell more."""
    lengths = path_lengths(trace(pyramid("cpu").eval(), levels("cpu")))
    assert lengths.tolist() == [[2, 3, 4], [3, 3, 4], [3, 4, 2], [4, 4, 3], [4, 3, 2]]


def test_a_gate_lets_the_finer_map_through_by_the_maximum_of_the_coarser(device: str) -> None:
    """A single high cell of P7 opens the gate of P6 for the whole image."""
    module = pyramid(device).eval()
    inputs = levels(device)
    low = module(inputs)
    inputs[2] = inputs[2].clone()
    inputs[2][..., 0, 0] += 50
    high = module(inputs)
    assert not low[3].allclose(high[3])


def test_stacks_follow_each_other(device: str) -> None:
    """The second stack has the first one's levels for its own: levels of all sizes pass through twice as many layers."""
    one, two = (path_lengths(trace(pyramid("cpu", n).eval(), levels("cpu"))) for n in (1, 2))
    assert (two > one).all()


def test_it_learns(device: str) -> None:
    """It can be taught to show a coarse map at the finest level."""
    given, module = levels(device, 32), pyramid(device)
    target = upsample_like(given[2][:, :1], given[0])
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = mse_loss(module(given)[0][:, :1], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
