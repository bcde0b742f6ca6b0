"""Laws of the two adversaries of A-Fast-RCNN, and that they train."""

import math
from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from reference_impl.generation import (
    OcclusionNetwork,
    RotationNetwork,
    adversarial_dropout,
    adversarial_transformer,
    hardest_window,
    occlusion_loss,
)
from tests.sampling.uniformity import BOUND, CANDIDATES, DRAWN, DRAWS, statistic


def regions(n: int, device: str) -> Tensor:
    """Features of 4 by 7 by 7: noise, and a bright spot of 2 by 2 cells, which is all that shows the class."""
    generator = torch.Generator().manual_seed(0)
    features = 0.2 * torch.rand(n, 4, 7, 7, generator=generator)
    windows = OcclusionNetwork.windows()
    spot = windows[torch.randint(len(windows), (n,), generator=generator)]
    return (features + 2 * spot[:, None] * torch.rand(n, 4, 1, 1, generator=generator)).to(device)


def sureness(features: Tensor) -> Tensor:
    """A detector that was trained before: how sure it is of the class, by the brightest cells."""
    return (features.sum(-3).flatten(-2).topk(4).values.mean(-1) - 2).sigmoid()


def test_windows_cover_every_cell(device: str) -> None:
    for size, window, stride in ((7, 2, 2), (7, 3, 2), (6, 2, 2), (5, 5, 1)):
        windows = OcclusionNetwork.windows(size, window, stride, device=torch.device(device))
        assert windows.sum((1, 2)).eq(window**2).all()
        assert windows.any(0).all()
    assert len(OcclusionNetwork.windows()) == 16


def test_no_window_hurts_more_than_the_hardest(device: str) -> None:
    features, windows = regions(50, device), OcclusionNetwork.windows().to(device)
    p_s = sureness(features[:, None].masked_fill(windows[:, None], 0))
    chosen = hardest_window(p_s, windows)
    torch.testing.assert_close(sureness(features.masked_fill(chosen[:, None], 0)), p_s.amin(-1))


def test_as_many_cells_are_dropped_as_wanted_and_only_candidates(device: str) -> None:
    features, logits = regions(50, device), torch.randn(50, 7, 7, generator=torch.Generator().manual_seed(1)).to(device)
    for candidates, dropped in ((20, 15), (10, 3), (49, 49), (5, 9)):
        masked, mask = adversarial_dropout(features, logits, candidates=candidates, dropped=dropped)
        assert mask.sum((1, 2)).eq(min(candidates, dropped)).all()
        threshold = logits.flatten(1).topk(candidates).values[:, -1, None, None]
        assert (logits[mask] >= threshold.expand_as(logits)[mask]).all()
        assert masked.equal(features * ~mask[:, None])


def test_every_candidate_is_dropped_as_often(device: str) -> None:
    logits = torch.arange(49.0, device=device).view(7, 7).expand(20_000, 7, 7)
    noise = torch.rand(20_000, 7, 7, generator=torch.Generator().manual_seed(1)).to(device)
    _, mask = adversarial_dropout(torch.ones(20_000, 1, 7, 7, device=device), logits, noise=noise)
    share = mask.double().mean(0).flatten()
    assert share[:29].eq(0).all()
    # Five standard deviations of a share of 3/4 in 20000.
    assert (share[29:] - 0.75).abs().max() < 5 * (0.75 * 0.25 / 20_000) ** 0.5


def test_every_subset_of_the_candidates_is_dropped_as_often_as_any_other(device: str) -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 0.5, 0.25]], device=device).expand(DRAWS, 2, 4)
    _, mask = adversarial_dropout(torch.ones(DRAWS, 1, 2, 4, device=device), logits, candidates=CANDIDATES, dropped=DRAWN)
    assert statistic(mask.flatten(1)[:, :CANDIDATES].long()) < BOUND


def test_the_occlusion_network_learns_what_hurts(device: str) -> None:
    """Pre-training on the hardest windows lowers its loss; what it then drops hurts more than cells drawn at random."""
    torch.manual_seed(0)
    features, windows = regions(64, device), OcclusionNetwork.windows().to(device)
    network = OcclusionNetwork(channels=4, hidden=8).to(device)
    hardest = hardest_window(sureness(features[:, None].masked_fill(windows[:, None], 0)), windows)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    first = occlusion_loss(network(features), hardest).mean().item()
    for _ in range(80):
        optimiser.zero_grad()
        loss = occlusion_loss(network(features), hardest).mean()
        loss.backward()
        optimiser.step()
    assert loss.item() < first / 4
    dropped, _ = adversarial_dropout(features, network(features), candidates=6, dropped=4)
    at_random, _ = adversarial_dropout(features, torch.rand(64, 7, 7, device=device), candidates=6, dropped=4)
    assert sureness(dropped).mean() < sureness(at_random).mean() - 0.1


def test_the_adversarial_step_reinforces_masks_that_worked(device: str) -> None:
    torch.manual_seed(0)
    features = regions(64, device)
    network = OcclusionNetwork(channels=4, hidden=8).to(device)
    dropped, mask = adversarial_dropout(features, network(features))
    before, after = sureness(features), sureness(dropped)
    worked = after + 0.1 < before
    loss = occlusion_loss(network(features), mask, before, after)
    assert loss[~worked].eq(0).all()
    assert loss[worked].equal(occlusion_loss(network(features), mask)[worked])
    assert worked.any()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    loss.mean().backward()
    optimiser.step()
    assert occlusion_loss(network(features), mask, before, after).mean() < loss.mean()


def examples(n: int, device: str) -> tuple[Tensor, Tensor]:
    """Noise, and in every second region two traces of the class at two places: a strong one in one channel, a weak one in another."""
    generator = torch.Generator().manual_seed(0)
    features, windows = torch.rand(n, 4, 7, 7, generator=generator), OcclusionNetwork.windows()
    foreground = torch.arange(n) % 2 == 1
    for channel, strength in ((0, 3.0), (1, 1.5)):
        features[:, channel] += strength * foreground[:, None, None] * windows[torch.randint(len(windows), (n,), generator=generator)]
    return features.to(device), foreground.to(device)


def test_detector_and_adversary_learn_in_three_stages(device: str) -> None:
    """The detector, the adversary against it, then both, with every second region as it is. That makes it harder to fool than going on
    alone."""
    torch.manual_seed(0)
    features, foreground = examples(128, device)
    windows, label = OcclusionNetwork.windows().to(device), foreground.long()
    detector = nn.Sequential(nn.Flatten(), nn.Linear(4 * 49, 16), nn.ReLU(), nn.Linear(16, 2)).to(device)
    adversary = OcclusionNetwork(channels=4, hidden=8).to(device)

    def sure(detector: nn.Module, x: Tensor) -> Tensor:
        return detector(x.flatten(0, -4)).softmax(-1)[:, 1].view(x.shape[:-3])

    def with_windows(detector: nn.Module) -> Tensor:
        return sure(detector, features[foreground][:, None].masked_fill(windows[:, None], 0))

    def joint() -> tuple[Tensor, Tensor]:
        dropped, mask = adversarial_dropout(features, adversary(features), foreground)
        taught = occlusion_loss(adversary(features), mask, sure(detector, features), sure(detector, dropped))
        given = torch.where(torch.rand(len(label), 1, 1, 1, device=device) < 0.5, features, dropped)
        return cross_entropy(detector(given), label), (taught * foreground).mean()

    assert (train(detector, 60, lambda: (cross_entropy(detector(features), label),)) < 0.25).all()
    hardest, alone = hardest_window(with_windows(detector), windows), deepcopy(detector)
    assert (train(adversary, 80, lambda: (occlusion_loss(adversary(features[foreground]), hardest).mean(),)) < 0.25).all()
    assert (train(nn.ModuleList((detector, adversary)), 80, joint) < 0.25).all()
    train(alone, 80, lambda: (cross_entropy(alone(features), label),))
    assert with_windows(detector).amin(-1).mean() > with_windows(alone).amin(-1).mean() + 0.2


def train(module: nn.Module, steps: int, losses: Callable[[], tuple[Tensor, ...]]) -> Tensor:
    """What the last five steps have left of each loss of the first five."""
    optimiser, found = torch.optim.Adam(module.parameters(), lr=0.01), []
    for _ in range(steps):
        optimiser.zero_grad()
        step = torch.stack(losses())
        step.sum().backward()
        optimiser.step()
        found.append(step.detach())
    return torch.stack(found[-5:]).sum(0) / torch.stack(found[:5]).sum(0)


def filled(network: nn.Module, value: float, device: str) -> nn.Module:
    for parameter in network.parameters():
        nn.init.constant_(parameter, value)
    return network.to(device, torch.float64)


def test_the_occlusion_network_has_five_layers_with_rectifiers_between(device: str) -> None:
    """With all weights and biases 1/2 a layer adds up what its cells and channels hold, halves it and adds 1/2."""
    network = filled(OcclusionNetwork(channels=2, hidden=1), 0.5, device)
    features = torch.tensor([[[[1.0, 0.0]], [[1.0, 0.0]]], [[[-3.0, 0.0]], [[-1.0, 0.0]]]], dtype=torch.float64, device=device)
    # The sum 2 gives 1.5, 2, 2.5, 3, 3.5; the sum -4 gives -1.5, cut off to 0, 0.5, 1, 1.5, 2.
    assert network(features).tolist() == [[[3.5, 3.5]], [[2.0, 2.0]]]


def test_the_rotation_network_has_three_layers_and_a_limit(device: str) -> None:
    """One cell with 1 gives 1, 1, 1; with -3 it gives -1, cut off to 0, 1/2, 3/4: of that the hyperbolic tangent, times the limit."""
    features = torch.tensor([[[[1.0]]], [[[-3.0]]]], dtype=torch.float64, device=device)
    for degrees, blocks in ((90.0, 2), (10.0, 4)):
        network = filled(RotationNetwork(channels=1, size=1, hidden=1, blocks=blocks, max_degrees=degrees), 0.5, device)
        expected = [[math.tanh(x) * math.pi * degrees / 180] * blocks for x in (1.0, 0.75)]
        torch.testing.assert_close(network(features), torch.tensor(expected, dtype=torch.float64, device=device))


def test_the_networks_send_no_gradient_to_the_features(device: str) -> None:
    features = regions(2, device).requires_grad_()
    for network in (OcclusionNetwork(channels=4, hidden=8), RotationNetwork(channels=4, hidden=8)):
        output = network.to(device)(features)
        assert torch.autograd.grad(output.sum(), features, allow_unused=True) == (None,)


def test_no_turn_changes_nothing_and_four_quarter_turns_neither(device: str) -> None:
    features = regions(5, device).double()
    torch.testing.assert_close(adversarial_transformer(features, torch.zeros(5, 4, dtype=torch.float64, device=device)), features)
    quarter = torch.full((5, 2), math.pi / 2, dtype=torch.float64, device=device)
    turned = adversarial_transformer(features, quarter)
    torch.testing.assert_close(turned, features.rot90(1, (-2, -1)))
    for _ in range(3):
        turned = adversarial_transformer(turned, quarter)
    torch.testing.assert_close(turned, features)


def test_a_turn_agrees_with_a_sampled_grid(device: str) -> None:
    """Against torch's affine grid and bilinear sampling."""
    features = regions(6, device).double()
    angle = torch.linspace(-1, 1, 6, dtype=torch.float64, device=device)
    zero = torch.zeros_like(angle)
    matrix = torch.stack((angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero), -1).view(6, 2, 3)
    grid = nn.functional.affine_grid(matrix, list(features.shape), align_corners=False)
    expected = nn.functional.grid_sample(features, grid, align_corners=False)
    torch.testing.assert_close(adversarial_transformer(features, angle[:, None]), expected)


def test_each_block_turns_on_its_own(device: str) -> None:
    features = regions(3, device)
    angle = torch.tensor([[0.3, -0.2]], device=device).expand(3, 2)
    turned = adversarial_transformer(features, angle)
    for block, channels in ((0, slice(0, 2)), (1, slice(2, 4))):
        torch.testing.assert_close(turned[:, channels], adversarial_transformer(features[:, channels], angle[:, block : block + 1]))


def test_the_rotation_network_learns_to_hurt_within_its_limit(device: str) -> None:
    """A detector that looks at two cells of one bright row: turned features make it unsure."""
    torch.manual_seed(0)
    features = torch.zeros(32, 4, 7, 7, device=device)
    features[:, :, 3] = 0.5 + torch.rand(32, 4, 1, device=device)

    def loss(turned: Tensor) -> Tensor:
        return -(turned[:, :, 3, [0, 6]].mean((1, 2)) - 0.5).sigmoid().log().mean()

    network = RotationNetwork(channels=4, hidden=16).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        (-loss(adversarial_transformer(features, network(features)))).backward()
        optimiser.step()
    angle = network(features)
    limit = math.radians(10)
    assert angle.abs().max() <= limit
    assert angle.abs().mean() > 0.9 * limit
    assert loss(adversarial_transformer(features, angle)) > loss(features) + 0.05
