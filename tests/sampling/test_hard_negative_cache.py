"""Laws of the cache of hard negatives, and that mining with it ends at the classifier of all negatives."""

import torch
from torch import Tensor

from reference_impl.sampling import hard_negative_cache, mining_converged


def windows(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of five sets of 300 windows, most of them below the margin, which are negatives, and which are in the cache."""
    generator = torch.Generator().manual_seed(0)
    score = 0.6 * torch.randn(5, 300, generator=generator, dtype=torch.float64) - 1.5
    negative, cached = (torch.rand(5, 300, generator=generator) < share for share in (0.9, 0.4))
    return score.to(device), negative.to(device), cached.to(device)


def test_support_vectors_stay(device: str) -> None:
    score, negative, cached = windows(device)
    for size in (0, 10, 100):
        kept = hard_negative_cache(score, negative, cached, size=size).bool()
        assert kept[negative & cached & (score >= -1)].all()


def test_the_cache_does_not_overflow_and_is_as_full_as_it_can_be(device: str) -> None:
    score, negative, cached = windows(device)
    for size in (60, 120, 1000):
        kept = hard_negative_cache(score, negative, cached, size=size).bool()
        assert not kept[~negative].any()
        assert (kept.sum(-1) <= size).all()
        left = negative & ~kept & (score >= -1.002)
        assert (left.sum(-1).eq(0) | kept.sum(-1).eq(size)).all()


def test_easy_negatives_leave_from_the_easiest_on(device: str) -> None:
    """Half of the cache keeps what is hardest, and no easy window joins."""
    score, negative, cached = windows(device)
    before = cached & negative
    kept = hard_negative_cache(score, negative, cached, size=120).bool()
    for i in range(5):
        easy = score[i] < -1.002
        stays, leaves = score[i, easy & before[i] & kept[i]], score[i, before[i] & ~kept[i]]
        assert stays.min() > leaves.max()
        assert (kept[i] & before[i]).sum() == 60
        assert not (kept[i] & ~before[i] & easy).any()


def test_the_search_begins_anywhere_and_goes_round(device: str) -> None:
    score, negative, _ = windows(device)
    first = torch.tensor([0, 1, 100, 299, 250], device=device)
    found = hard_negative_cache(score, negative, first=first, size=20)
    for i in range(5):
        moved = hard_negative_cache(score[i].roll(-int(first[i])), negative[i].roll(-int(first[i])), size=20)
        assert moved.equal(found[i].roll(-int(first[i])))


def train(positives: Tensor, negatives: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A linear max-margin classifier: its weights, its objective, and the part of the negatives."""
    w = torch.zeros(3, dtype=torch.float64, device=positives.device, requires_grad=True)
    optimiser = torch.optim.Adam([w], lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.98)
    for _ in range(250):
        loss = (weight * (1 + negatives @ w).relu()).sum()
        objective = w[:2].square().sum() / 2 + (1 - positives @ w).relu().sum() + loss
        optimiser.zero_grad()
        objective.backward()
        optimiser.step()
        schedule.step()
    return w.detach(), objective.detach(), loss.detach()


def test_mining_ends_at_the_classifier_of_all_negatives(device: str) -> None:
    """Train, shrink, grow, until the loss on the cache is that on all; with a cache for 1 in 20."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(2040, 2, generator=generator, dtype=torch.float64)
    points[:40] += 3
    points = torch.cat((points, torch.ones(2040, 1, dtype=torch.float64)), -1).to(device)
    positives, background = points[:40], points[40:]
    everything = torch.ones(2000, dtype=torch.bool, device=device)
    cached, first, rounds = torch.arange(2000, device=device) < 20, torch.tensor(20, device=device), 0
    converged = torch.tensor(False, device=device)
    while not converged and rounds < 15:
        w, objective, loss = train(positives, background, cached.double())
        converged = mining_converged(objective, loss, (1 + background @ w).relu().sum())
        grown = hard_negative_cache(background @ w, everything, cached, first, size=100).bool()
        ends = ((torch.arange(2000, device=device) - first) % 2000).where(grown & ~cached, -1).amax()
        cached, first, rounds = grown, (first + ends + 1) % 2000, rounds + 1
    assert converged
    assert rounds > 1
    _, best, _ = train(positives, background, everything.double())
    assert w[:2].square().sum() / 2 + (1 - positives @ w).relu().sum() + (1 + background @ w).relu().sum() < 1.06 * best
