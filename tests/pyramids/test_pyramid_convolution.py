"""Laws of pyramid convolution."""

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from reference_impl.pyramids import PyramidConvolution


def pyramid(device: str, levels: int = 5, width: int = 3, size: int = 32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, width, size >> i, size >> i, generator=generator, dtype=torch.float64).to(device) for i in range(levels)]


def module(device: str, layers: int, norm: bool, levels: int = 5) -> PyramidConvolution:
    torch.manual_seed(0)
    found = PyramidConvolution(levels, width=3, layers=layers, integrated_norm=norm).double().to(device)
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return found


def test_a_layer_reaches_the_neighbours_and_two_layers_their_neighbours(device: str) -> None:
    for layers in (1, 2):
        given, convolution = pyramid(device), module(device, layers, False)
        before = convolution(given)
        for i in range(5):
            after = convolution([x + 1 if j == i else x for j, x in enumerate(given)])
            changed = [not a.equal(b) for a, b in zip(before, after, strict=True)]
            assert changed == [abs(j - i) <= layers for j in range(5)]


def test_it_does_the_same_at_every_level(device: str) -> None:
    """Where a pyramid's levels are all alike, those with two neighbours come out alike: the kernels are shared."""
    x = torch.randn(1, 3, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(device)
    found = module(device, 1, False)([x] * 5)
    torch.testing.assert_close(found[1], found[2])
    torch.testing.assert_close(found[2], found[3])
    assert not found[0].allclose(found[1])


def test_the_statistics_are_those_of_the_whole_pyramid(device: str) -> None:
    """In training, mean and variance over all locations of all levels are the shift and the scale; a single level's are not."""
    convolution = module(device, 1, True)
    seen: list[Tensor] = []
    norm = convolution.layers[0].norm  # type: ignore[union-attr]
    norm.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        norm.weight.fill_(2.0)
        norm.bias.fill_(1.0)
    convolution(pyramid(device))
    (joined,) = seen
    assert joined.shape == (2, 3, 32**2 + 16**2 + 8**2 + 4**2 + 2**2)
    torch.testing.assert_close(joined.mean((0, 2)), torch.ones_like(joined[0, :, 0]))
    torch.testing.assert_close(joined.std((0, 2), correction=0), torch.full_like(joined[0, :, 0], 2.0), rtol=1e-4, atol=0)
    assert (joined[..., : 32**2].mean((0, 2)) - 1).abs().max() > 1e-4


def test_it_learns(device: str) -> None:
    """It can be taught to bring the finest map to the level above."""
    torch.manual_seed(0)
    given, convolution = pyramid(device, levels=3), module(device, 2, True, levels=3)
    target = given[0][..., ::2, ::2].relu()
    optimiser = torch.optim.Adam(convolution.parameters(), lr=0.03)
    losses = []
    for _ in range(30):
        loss = mse_loss(convolution(given)[1], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
