"""Laws of boosting with stumps, and of the bar of a classifier in a cascade."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from reference_impl.ops.boosting import boosted_score, boosted_stumps, rejection_threshold


def by_loops(features: Tensor, positive: Tensor, k: int) -> list[tuple[int, float, float]]:
    """AdaBoost with stumps, one example after the other."""
    count = [sum(positive.tolist()), sum((~positive).tolist())]
    share = [0.5 / count[0 if p else 1] for p in positive.tolist()]
    found = []
    for _ in range(k):
        best = (-1.0, 0, 0.0, 0.0)
        for j in range(features.shape[1]):
            values = sorted(set(features[:, j].tolist()))
            for low, high in pairwise(values):
                cut = (low + high) / 2
                error = sum(s for s, x, p in zip(share, features[:, j].tolist(), positive.tolist(), strict=True) if (x > cut) != p)
                if max(error, 1 - error) > best[0] + 1e-12:
                    best = (max(error, 1 - error), j, cut, error)
        _, j, cut, error = best
        weight = math.log((1 - error) / error) / 2
        right = [(x > cut) == p for x, p in zip(features[:, j].tolist(), positive.tolist(), strict=True)]
        share = [s * math.exp(-weight if r else weight) for s, r in zip(share, right, strict=True)]
        share = [s / sum(share) for s in share]
        found.append((j, cut, weight))
    return found


def examples(number: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A few objects, whose features are a little higher."""
    generator = torch.Generator().manual_seed(seed)
    positive = torch.rand(number, generator=generator) < 0.2
    features = torch.randn(number, 4, generator=generator, dtype=torch.float64) + 0.8 * positive[:, None]
    return features, positive


def test_boosting_agrees_with_a_loop(device: str) -> None:
    features, positive = examples()
    found = boosted_stumps(features.to(device), positive.to(device), k=12)
    for j, cut, weight, (expected_j, expected_cut, expected_weight) in zip(
        *(x.tolist() for x in found), by_loops(features, positive, 12), strict=True
    ):
        assert (j, cut) == (expected_j, pytest.approx(expected_cut))
        assert weight == pytest.approx(expected_weight, rel=1e-9)


def test_what_does_not_count_leaves_no_trace(device: str) -> None:
    features, positive = (x.to(device) for x in examples())
    valid = torch.arange(40, device=device) % 3 > 0
    alone = boosted_stumps(features[valid], positive[valid], k=8)
    together = boosted_stumps(torch.where(valid[:, None], features, 1e9), positive, valid, k=8)
    for a, b in zip(alone, together, strict=True):
        torch.testing.assert_close(a, b)


def test_every_weak_classifier_lowers_the_exponential_loss(device: str) -> None:
    """By the factor that AdaBoost promises, the root of 1 less the square of the edge."""
    features, positive = (x.to(device) for x in examples(200))
    share = torch.where(positive, 1 / (2 * positive.sum()), 1 / (2 * (~positive).sum()))
    sign = torch.where(positive, 1.0, -1.0)
    feature, cut, weight = boosted_stumps(features, positive, k=10)
    losses = [1.0]
    for t in range(1, 11):
        score = boosted_score(features, feature[:t], cut[:t], weight[:t])
        losses.append(float((share * (-sign * score).exp()).sum()))
    promised = (1 - weight.tanh().square()).sqrt()
    torch.testing.assert_close(torch.tensor(losses[1:]) / torch.tensor(losses[:-1]), promised.float().cpu(), rtol=1e-5, atol=1e-6)
    assert losses[-1] < 0.8


@pytest.mark.parametrize("recall", [0.5, 0.9, 0.995, 1.0])
def test_the_bar_lets_the_wanted_share_pass(device: str, recall: float) -> None:
    """And no higher one would."""
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(500, generator=generator, dtype=torch.float64).to(device)
    positive = torch.rand(500, generator=generator).to(device) < 0.4
    bar = rejection_threshold(score, positive, recall=recall)
    assert (score[positive] >= bar).double().mean() >= recall - 1e-9
    assert (score[positive] > bar).double().mean() < recall


def test_without_objects_nothing_is_rejected(device: str) -> None:
    score = torch.tensor([-1e30, 0.0, 5.0], device=device)
    assert (score >= rejection_threshold(score, torch.zeros(3, dtype=torch.bool, device=device))).all()
