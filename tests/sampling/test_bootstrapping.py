"""Laws of bootstrapping."""

import torch
from torch import Tensor, nn

from reference_impl.sampling import bootstrapping
from tests.sampling.uniformity import BOUND, CANDIDATES, DRAWN, DRAWS, statistic


def windows(device: str) -> tuple[Tensor, Tensor]:
    """Scores of five sets of 400 windows, and which are negatives."""
    generator = torch.Generator().manual_seed(0)
    score = torch.rand(5, 400, generator=generator, dtype=torch.float64)
    return score.to(device), (torch.rand(5, 400, generator=generator) < 0.9).to(device)


def test_a_large_round_takes_all_false_positives(device: str) -> None:
    score, negative = windows(device)
    assert bootstrapping(score, negative, size=400).bool().equal(negative & (score > 0.5))


def test_the_set_only_grows(device: str) -> None:
    score, negative = windows(device)
    mined = torch.zeros_like(negative)
    for _ in range(4):
        grown = bootstrapping(score, negative, mined, size=30).bool()
        assert grown[mined].all()
        assert (grown.sum(-1) - mined.sum(-1)).eq(30).all()
        mined = grown


def test_every_subset_of_the_false_positives_is_as_likely_as_any_other(device: str) -> None:
    """How far they are on the wrong side does not matter."""
    torch.manual_seed(0)
    score = torch.tensor([0.6, 0.7, 0.8, 0.9, 0.55, 0.99, 0.4], dtype=torch.float64, device=device).expand(DRAWS, -1)
    weight = bootstrapping(score, torch.ones_like(score, dtype=torch.bool), size=DRAWN)
    assert statistic(weight[:, :CANDIDATES]) < BOUND


def train(positives: Tensor, negatives: Tensor) -> nn.Module:
    """A fresh classifier of points in the plane, with both classes of equal weight."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)).double()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(250):
        loss = nn.functional.softplus(-model(positives)).mean() + nn.functional.softplus(model(negatives)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


def false_positives(model: nn.Module, background: Tensor) -> float:
    return float((model(background) > 0).double().mean())


def test_mined_negatives_teach_more_than_random_ones() -> None:
    """Train, mine, grow, on objects that fill a small ring in a large background."""
    generator = torch.Generator().manual_seed(0)
    plane = 8 * torch.rand(12_000, 2, generator=generator, dtype=torch.float64) - 4
    radius = plane.norm(dim=-1)
    positives = plane[(radius > 1.1) & (radius < 1.5)]
    pool, unseen = plane[(radius < 0.9) | (radius > 1.7)].tensor_split(2)
    everything = torch.ones(len(pool), dtype=torch.bool)
    mined = torch.arange(len(pool)) < 15

    found = []
    for _ in range(6):
        model = train(positives, pool[mined])
        found.append(false_positives(model, unseen))
        noise = torch.rand(len(pool), generator=generator, dtype=torch.float64)
        with torch.no_grad():
            mined = bootstrapping(model(pool)[:, 0].sigmoid(), everything, mined, noise, size=40).bool()

    assert found[-1] < found[0] / 4
    same_number = train(positives, pool[: int(mined.sum())])
    assert found[-1] < false_positives(same_number, unseen)
    assert (model(positives) > 0).double().mean() > 0.95
