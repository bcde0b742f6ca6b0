"""Laws of direct loss minimisation for average precision."""

from itertools import combinations, product

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from reference_impl.losses import direct_ap_loss


def update(logits: Tensor, positive: Tensor, negative: Tensor, epsilon: float = 0.1) -> tuple[Tensor, Tensor]:
    x = logits.clone().requires_grad_()
    loss = direct_ap_loss(x, positive, negative, epsilon=epsilon)
    return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]


def draw(seed: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    role = torch.rand(n, generator=generator)
    return torch.randn(n, generator=generator, dtype=torch.float64), role < 0.4, role > 0.5


def average_precision(is_positive: list[bool]) -> float:
    found = [rank for rank, hit in enumerate(is_positive, 1) if hit]
    return sum(k / rank for k, rank in enumerate(found, 1)) / len(found)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 30.0, -0.1, -1.0, -30.0])
def test_the_best_of_all_rankings_is_found(device: str, epsilon: float) -> None:
    """All ways to interleave the sorted positives and negatives are tried."""
    for seed in range(30):
        logits, positive, negative = draw(seed, 9)
        up, down = (logits[mask].sort(descending=True).values for mask in (positive, negative))
        if not len(up) or not len(down):
            continue
        margin = (up[:, None] - down) / len(up) / len(down)
        best = -torch.inf
        for places in combinations(range(len(up) + len(down)), len(up)):
            before = torch.tensor([[place - i <= j for j in range(len(down))] for i, place in enumerate(places)])
            loss = 1 - average_precision([rank in places for rank in range(len(up) + len(down))])
            best = max(best, torch.where(before, margin, -margin).sum().item() + epsilon * loss)
        loss, _ = update(logits.to(device), positive.to(device), negative.to(device), epsilon)
        assert loss.item() == pytest.approx((best - margin.abs().sum().item()) / epsilon)


def test_it_is_never_below_one_minus_average_precision_and_close_to_it_for_a_small_epsilon(device: str) -> None:
    for seed in range(20):
        logits, positive, negative = (x.to(device) for x in draw(seed, 40))
        ranked = positive[logits.argsort(descending=True)][(positive | negative)[logits.argsort(descending=True)]]
        expected = 1 - average_precision(ranked.tolist())
        assert update(logits, positive, negative, 1e-9)[0].item() == pytest.approx(expected)
        losses = [update(logits, positive, negative, epsilon)[0].item() for epsilon in (0.1, 1.0, 10.0)]
        assert expected - 1e-12 <= losses[0] <= losses[1] <= losses[2] <= 1


def test_towards_a_better_ranking_it_is_never_above_one_minus_average_precision(device: str) -> None:
    for seed in range(20):
        logits, positive, negative = (x.to(device) for x in draw(seed, 40))
        losses = [update(logits, positive, negative, epsilon)[0].item() for epsilon in (1e-9, -1e-9, -0.1, -1.0, -10.0, -1e9)]
        assert losses[1] == pytest.approx(losses[0])
        assert losses[1] + 1e-12 >= losses[2] >= losses[3] >= losses[4] >= losses[5] == pytest.approx(0, abs=1e-6)


def test_a_better_ranking_is_found_in_batches_and_in_one_graph_for_all_sizes(device: str) -> None:
    counter = CompileCounter()
    compiled = torch.compile(direct_ap_loss, fullgraph=True, backend=counter)
    for n in (20, 30, 25):
        batch = [torch.stack(x).to(device) for x in zip(*(draw(seed, n) for seed in range(3)), strict=True)]
        for x in batch:
            torch._dynamo.maybe_mark_dynamic(x, 1)
        alone = [direct_ap_loss(*(x[k] for x in batch), epsilon=-1.0) for k in range(3)]
        torch.testing.assert_close(direct_ap_loss(*batch, epsilon=-1.0), torch.stack(alone))
        torch.testing.assert_close(compiled(*batch, epsilon=-1.0), torch.stack(alone))
    assert counter.frame_count == 1


@pytest.mark.parametrize("epsilon", [10.0, -10.0])
def test_positives_rise_as_much_as_negatives_sink(device: str, epsilon: float) -> None:
    logits, positive, negative = (x.to(device) for x in draw(0, 100))
    _, gradient = update(logits, positive, negative, epsilon)
    assert gradient.sum().item() == pytest.approx(0, abs=1e-12)
    assert gradient[positive].le(0).all()
    assert gradient[negative].ge(0).all()
    assert gradient[positive].lt(0).any()


def test_a_small_epsilon_leaves_all_pairs_alone_and_a_large_one_none(device: str) -> None:
    logits, positive, negative = (x.to(device) for x in draw(1, 50))
    _, gradient = update(logits, positive, negative, 1e-9)
    assert gradient.eq(0).all()
    _, gradient = update(logits, positive, negative, 1e9)
    in_order = (logits[positive][:, None] > logits[negative]).sum()
    strength = 2 / (1e9 * positive.sum() * negative.sum())
    torch.testing.assert_close(gradient[negative].sum(), strength.double() * in_order)


def test_without_positives_or_negatives_there_is_no_loss(device: str) -> None:
    logits, none = torch.randn(5, device=device), torch.zeros(5, dtype=torch.bool, device=device)
    for (positive, negative), epsilon in product(((none, ~none), (~none, none), (none, none)), (0.1, -0.1)):
        loss, gradient = update(logits, positive, negative, epsilon)
        assert loss == 0
        assert gradient.eq(0).all()


def test_epsilon_must_not_be_0() -> None:
    mask = torch.zeros(2, dtype=torch.bool)
    with pytest.raises(ValueError, match="`epsilon` is"):
        direct_ap_loss(torch.zeros(2), mask, ~mask, epsilon=0.0)
