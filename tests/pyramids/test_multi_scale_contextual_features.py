"""Laws of the multi-scale contextual features and of their injection."""

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, mse_loss

from reference_impl.pyramids import ContextInjection, MultiScaleContextualFeatures

CHANNELS = [8, 12, 4, 4]


def image(device: str, height: int = 64, width: int = 72) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)


def levels(device: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    sizes = ((8, 9), (4, 5), (2, 3), (1, 2))
    return [torch.randn(2, c, *s, generator=generator, dtype=torch.float64).to(device) for c, s in zip(CHANNELS, sizes, strict=True)]


def context(device: str) -> MultiScaleContextualFeatures:
    torch.manual_seed(0)
    return MultiScaleContextualFeatures(width=32).double().to(device)


def test_the_survey_s_sizes() -> None:
    """A 320 x 320 image becomes a 40 x 40 map (survey, Sec. 5.1.4)."""
    module = MultiScaleContextualFeatures(width=16)
    assert module(torch.zeros(1, 3, 320, 320)).shape == (1, 16, 40, 40)


def test_one_pooling_is_three(device: str) -> None:
    x = image(device, 67, 79)
    thrice = max_pool2d(max_pool2d(max_pool2d(x, 2), 2), 2)
    assert max_pool2d(x, 8).equal(thrice)


def test_context_reaches_five_cells_to_each_side(device: str) -> None:
    """One by the first layer, and up to four by the dilations."""
    module, x = context(device).eval(), image(device, 8, 8 * 21)
    touched = x.clone()
    touched[..., 8 * 10 : 8 * 11] += 4
    columns = (module(x) != module(touched)).any(1).any(0).any(0).nonzero().flatten().tolist()
    assert columns == list(range(5, 16))


def test_every_level_gets_the_context(device: str) -> None:
    """It is a factor of the first level and goes on from there; no level hears of a coarser one."""
    torch.manual_seed(0)
    given, injection = levels(device), ContextInjection(CHANNELS).double().to(device).eval()
    for parameter in injection.parameters():
        torch.nn.init.uniform_(parameter, 0.1, 1.0)
    given = [x.abs() for x in given]
    weight = torch.ones(2, 8, 8, 9, dtype=torch.float64, device=device)
    before = injection(given, weight)
    assert [x.shape for x in before] == [x.shape for x in given]
    assert all(not a.equal(b) for a, b in zip(before, injection(given, 2 * weight), strict=True))
    after = injection([*given[:2], 2 * given[2], given[3]], weight)
    assert [a.equal(b) for a, b in zip(before, after, strict=True)] == [True, True, False, False]


def test_without_context_a_level_is_the_same_everywhere(device: str) -> None:
    """A factor of zero leaves nothing of the first level."""
    torch.manual_seed(0)
    injection = ContextInjection(CHANNELS).double().to(device).eval()
    first, *_ = injection(levels(device), torch.zeros(2, 8, 8, 9, dtype=torch.float64, device=device))
    assert first.std((0, 2, 3)).max() == 0


def test_both_learn(device: str) -> None:
    """Together they can be taught what only the image shows."""
    torch.manual_seed(0)
    x = image(device)
    module, injection = MultiScaleContextualFeatures(width=32).double().to(device), ContextInjection([32, 8], raw=0).double().to(device)
    given = [torch.ones(2, c, *s, dtype=torch.float64, device=device) for c, s in ((32, (8, 9)), (8, (4, 5)))]
    target = max_pool2d(x, 16, ceil_mode=True).amax(1, keepdim=True) > 3
    optimiser = torch.optim.Adam([*module.parameters(), *injection.parameters()], lr=0.03)
    losses = []
    for _ in range(40):
        loss = mse_loss(injection(given, module(x))[1][:, :1], target.double())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
