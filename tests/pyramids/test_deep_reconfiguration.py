"""Laws of deep feature pyramid reconfiguration."""

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from reference_impl.measure import path_lengths, trace
from reference_impl.pyramids import DeepReconfiguration


def levels(device: str, size: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(c, size >> i) for i, c in enumerate((2, 3, 4))]
    return [torch.randn(2, c, s, s, generator=generator, dtype=torch.float64).to(device) for c, s in shapes]


def pyramid(device: str) -> DeepReconfiguration:
    torch.manual_seed(0)
    return DeepReconfiguration([2, 3, 4], width=6, reduction=3).double().to(device)


def test_every_level_is_one_module_away_from_every_other() -> None:
    """The three convolutions lie between any two levels; from a level to itself there is the way of the residual, without a layer."""
    lengths = path_lengths(trace(pyramid("cpu").eval(), levels("cpu")))
    assert lengths.tolist() == [[0 if i == j else 3 for j in range(3)] for i in range(3)]


def test_what_is_learnt_is_a_residual(device: str) -> None:
    """With last layers of 0 the backbone's levels come out as they are."""
    module, given = pyramid(device), levels(device)
    for layers in module.reconfigure:
        assert isinstance(layers, nn.Sequential)
        for parameter in layers[-1].parameters():
            nn.init.zeros_(parameter)
    assert all(x.equal(y) for x, y in zip(module(given), given, strict=True))


def test_attention_is_global(device: str) -> None:
    """A high cell in one corner changes the finest level in the other corner, far beyond the 3 x 3 window, by way of the gate."""
    module, given = pyramid(device), levels(device)
    nn.init.constant_(module.get_parameter("attend.0.0.bias"), 2.0)
    before = module(given)[0][..., -1, -1]
    given[0] = given[0].clone()
    given[0][..., 0, 0] += 100
    assert not module(given)[0][..., -1, -1].allclose(before)


def test_it_learns(device: str) -> None:
    """It can be taught to subtract the coarsest map from the finest one."""
    given, module = levels(device), pyramid(device)
    target = given[0] - given[2][:, :1].repeat_interleave(4, -2).repeat_interleave(4, -1)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = mse_loss(module(given)[0], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
