"""Laws of AugFPN."""

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from reference_impl.pyramids import FPN, AugFPN


def levels(device: str, channels: list[int], size: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, size >> i, size >> i, generator=generator, dtype=torch.float64).to(device) for i, c in enumerate(channels)]


def pyramid(device: str, channels: list[int]) -> AugFPN:
    torch.manual_seed(0)
    return AugFPN(channels, width=4).double().to(device)


def test_without_a_context_it_is_fpn(device: str) -> None:
    """With all weights of the contexts at sigmoid(-1000) = 0."""
    module, plain, given = pyramid(device, [2, 3, 4]), FPN([2, 3, 4], width=4).double().to(device), levels(device, [2, 3, 4])
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if k.startswith(("lateral", "smooth"))})
    torch.nn.init.constant_(module.get_parameter("weigh.2.bias"), -1000.0)
    for x, y in zip(module(given), plain(given), strict=True):
        torch.testing.assert_close(x, y)


def test_the_context_of_a_cell_is_the_whole_image(device: str) -> None:
    """One corner of the top changes the other one, which no 3 x 3 convolution of it would, and the levels below."""
    module, given = pyramid(device, [2, 3]), levels(device, [2, 3])
    before = module(given)
    given[1] = given[1].clone()
    given[1][..., 0, 0] += 1
    for x, y in zip(module(given), before, strict=True):
        assert not x[..., -1, -1].allclose(y[..., -1, -1])


def test_consistent_supervision_reaches_the_laterals_alone(device: str) -> None:
    module, given = pyramid(device, [2, 3]), levels(device, [2, 3])
    found = module.laterals(given)
    assert [tuple(x.shape[1:]) for x in found] == [(4, 16, 16), (4, 8, 8)]
    torch.stack([x.square().mean() for x in found]).sum().backward()
    assert {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None} == {"lateral"}


def test_it_learns(device: str) -> None:
    """It can be taught to tell every cell of the finest level the mean of the coarsest."""
    module, given = pyramid(device, [2, 3]), levels(device, [2, 3])
    target = given[1].mean((1, 2, 3), keepdim=True).expand(2, 4, 16, 16)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = mse_loss(module(given)[0], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
