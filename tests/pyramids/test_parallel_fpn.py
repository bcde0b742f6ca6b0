"""Laws of the parallel feature pyramid."""

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from reference_impl.measure import path_lengths, trace
from reference_impl.pyramids import ParallelFPN


def levels(device: str, size: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, size >> i, size >> i, generator=generator, dtype=torch.float64).to(device) for i in range(2)]


def pyramid(device: str) -> ParallelFPN:
    torch.manual_seed(0)
    return ParallelFPN([3, 3], width=4, scales=3).double().to(device)


def test_all_levels_are_equally_deep() -> None:
    """Layers on the shortest way to each level are the same: lateral, stack, and the two of its context."""
    assert path_lengths(trace(pyramid("cpu").eval(), levels("cpu"))).unique().tolist() == [4]


def test_it_is_homogeneous(device: str) -> None:
    """There is no bias anywhere: what is twice as strong comes out twice as strong."""
    module, given = pyramid(device).eval(), levels(device)
    for x, y in zip(module(given), module([2 * x for x in given]), strict=True):
        torch.testing.assert_close(2 * x, y)


def test_pooled_maps_have_one_mean(device: str) -> None:
    means = [x.mean((-2, -1)) for x in pyramid(device).pooled(levels(device))]
    torch.testing.assert_close(means[0], means[1])
    torch.testing.assert_close(means[0], means[2])


def test_it_learns(device: str) -> None:
    """It can be taught to show at its finest level what only the coarser backbone map holds."""
    given, module = levels(device), pyramid(device)
    target = given[1][:, :1].relu().repeat_interleave(2, -2).repeat_interleave(2, -1)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(80):
        loss = mse_loss(module(given)[0].mean(1, keepdim=True), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
