"""Laws of dynamic task prioritisation."""

import torch
from torch import Tensor

from reference_impl.balancing import dynamic_task_prioritization, moving_indicator


def line(device: str) -> Tensor:
    return torch.linspace(0.02, 1, 200, dtype=torch.float64, device=device)


def test_the_better_a_task_is_done_the_less_it_counts(device: str) -> None:
    for gamma in (0.0, 0.5, 1.0, 3.0):
        weight = dynamic_task_prioritization(line(device), torch.full((200,), gamma, dtype=torch.float64, device=device))
        assert (weight.diff() < 0).all()
        assert weight[-1] == 0


def test_a_larger_exponent_sets_tasks_further_apart(device: str) -> None:
    pair = torch.tensor([0.3, 0.6], dtype=torch.float64, device=device)
    ratios = [dynamic_task_prioritization(pair, torch.full_like(pair, gamma)) for gamma in (0.0, 1.0, 2.0, 4.0)]
    ratio = torch.stack([hard / easy for hard, easy in ratios])
    assert (ratio.diff() > 0).all()


def test_a_mastered_task_weighs_like_the_power_of_what_it_lacks(device: str) -> None:
    """Near 1 the logarithm is the missing part itself, so the weight is that to the power of one more."""
    lacking = torch.tensor([1e-3, 1e-4, 1e-5], dtype=torch.float64, device=device)
    weight = dynamic_task_prioritization(1 - lacking, torch.full_like(lacking, 2.0))
    torch.testing.assert_close(weight / lacking**3, torch.ones_like(lacking), rtol=1e-3, atol=0)


def test_the_average_settles_and_forgets_its_start(device: str) -> None:
    steady = torch.tensor([0.2, 0.9], dtype=torch.float64, device=device)
    average = moving_indicator(1 - steady)
    for _ in range(300):
        average = moving_indicator(steady, average)
    torch.testing.assert_close(average, steady)


def test_the_average_is_steadier_than_a_batch(device: str) -> None:
    """Of independent values, an average with share a has a / (2 - a) of their variance."""
    values = torch.rand(6000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
    average, seen = moving_indicator(values[0]), []
    for value in values:
        average = moving_indicator(value, average)
        seen.append(average)
    ratio = torch.stack(seen[200:]).var() / values.var()
    assert abs(ratio - 0.1 / 1.9) < 0.01


def test_training_turns_to_the_task_that_lags_behind(device: str) -> None:
    """Two tasks of one parameter each, one with gradients ten times smaller: with these weights it is not left behind as far."""
    scale = torch.tensor([1.0, 0.1], dtype=torch.float64, device=device)

    def worst(*, prioritised: bool) -> float:
        x = torch.zeros(2, dtype=torch.float64, device=device, requires_grad=True)
        for _ in range(60):
            loss = scale * (1 - x).square()
            weight = dynamic_task_prioritization(1 - (1 - x.detach()).square()) if prioritised else torch.ones_like(x)
            (gradient,) = torch.autograd.grad((weight / weight.sum() * loss).sum(), x)
            x = (x - 0.3 * gradient).detach().requires_grad_()
        return x.min().item()

    assert worst(prioritised=True) > worst(prioritised=False) + 0.01
