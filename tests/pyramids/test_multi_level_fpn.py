"""Laws of the multi-level feature pyramid network."""

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from reference_impl.measure import path_lengths, trace
from reference_impl.pyramids import MultiLevelFPN


def levels(device: str, size: int = 20) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, s, s, generator=generator, dtype=torch.float64).to(device) for c, s in ((4, size), (6, size // 2))]


def pyramid(device: str, modules: int = 2, scales: int = 4, *, normalise: bool = False) -> MultiLevelFPN:
    torch.manual_seed(0)
    small = {"width": 8, "shallow_width": 4, "deep_width": 4}
    return MultiLevelFPN([4, 6], **small, modules=modules, scales=scales, normalise=normalise).double().to(device)


def test_the_papers_sizes() -> None:
    """An image of 320 pixels has 40 cells at stride 8; six scales end in a single cell."""
    given = [torch.zeros(1, 4, 40, 40, dtype=torch.float64), torch.zeros(1, 6, 20, 20, dtype=torch.float64)]
    assert [x.shape[-1] for x in pyramid("cpu", scales=6).eval()(given)] == [40, 20, 10, 5, 3, 1]


def test_every_pyramid_adds_its_channels(device: str) -> None:
    assert [x.shape[1] for x in pyramid(device, modules=5)(levels(device))] == [40] * 4


def test_later_pyramids_lie_deeper() -> None:
    """Each module takes its input to its finest map by two layers at least, so that the third one's map is six layers from the base."""
    module = pyramid("cpu", modules=3).eval()
    base = torch.zeros(1, 4, 20, 20, dtype=torch.float64)
    ways = []
    for tum, n in zip(module.tums, (1, 3, 3), strict=True):
        graph = trace(lambda levels, tum=tum: tum(levels[0]), [torch.cat([base] * n, 1)])  # type: ignore[arg-type, misc]
        ways.append(path_lengths(graph)[0].item())
    assert ways == [2, 2, 2]


def test_channels_count_by_their_mean(device: str) -> None:
    """With the last layer of the attention at 0, every channel counts half."""
    module, given = pyramid(device).eval(), levels(device)
    torch.nn.init.zeros_(module.excite.weight)
    torch.nn.init.zeros_(module.excite.bias)
    halved = module(given)
    torch.nn.init.constant_(module.excite.bias, 40.0)
    for a, b in zip(halved, module(given), strict=True):
        torch.testing.assert_close(2 * a, b)


def test_only_the_finest_level_is_normalised(device: str) -> None:
    """Each of its channels has mean 0 and variance 1 over the batch, as far as it varied at all."""
    plain, module, given = pyramid(device), pyramid(device, normalise=True), levels(device)
    (before, *others), (finest, *same) = plain(given), module(given)
    for a, b in zip(same, others, strict=True):
        torch.testing.assert_close(a, b)
    moments = torch.stack((finest.mean((0, 2, 3)), finest.var((0, 2, 3), correction=0)), 1)[before.var((0, 2, 3)) > 0.1]
    torch.testing.assert_close(moments, torch.tensor([0.0, 1.0], dtype=torch.float64, device=device).expand_as(moments), rtol=0, atol=1e-3)


def test_it_learns(device: str) -> None:
    """It can be taught to show the coarse backbone level at the finest level."""
    given, module = levels(device), pyramid(device, scales=3)
    target = given[1][:, :1].relu().repeat_interleave(2, -1).repeat_interleave(2, -2)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = mse_loss(module(given)[0][:, :1], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
