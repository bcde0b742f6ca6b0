"""Laws of bootstrapping."""

import torch
from torch import Tensor

from reference_impl.sampling import bootstrapping
from tests.sampling.mining import mine
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


def test_mined_negatives_teach_more_than_random_ones() -> None:
    """Train, mine, grow, five times."""

    def select(logits: Tensor, mined: Tensor, noise: Tensor) -> Tensor:
        return bootstrapping(logits.sigmoid(), torch.ones_like(mined), mined, noise, size=40)

    false_positives, with_random_ones, detected, _ = mine(select, 5)
    assert false_positives[-1] < false_positives[0] / 4
    assert false_positives[-1] < with_random_ones
    assert detected > 0.95
