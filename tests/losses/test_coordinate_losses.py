"""Laws of the losses of single coordinates: L2, L1, smooth L1, balanced L1."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import huber_loss
from torch.nn.functional import smooth_l1_loss as torch_smooth_l1_loss

from reference_impl.losses import balanced_l1_loss, l1_loss, l2_loss, smooth_l1_loss

LOSSES = [l2_loss, l1_loss, smooth_l1_loss, balanced_l1_loss]


def errors(device: str) -> Tensor:
    return torch.linspace(-3, 3, 241, dtype=torch.float64, device=device)


def slope(loss: Callable[..., Tensor], error: Tensor, **parameters: float) -> Tensor:
    error = error.clone().requires_grad_()
    return torch.autograd.grad(loss(error, torch.zeros_like(error), **parameters).sum(), error)[0]


@pytest.mark.parametrize("loss", LOSSES)
def test_only_the_length_of_the_error_counts(loss: Callable[..., Tensor], device: str) -> None:
    x = errors(device)
    zero = torch.zeros_like(x)
    torch.testing.assert_close(loss(x, zero), loss(-x, zero))
    torch.testing.assert_close(loss(x, zero), loss(zero, x))
    torch.testing.assert_close(loss(x + 7, zero + 7), loss(x, zero))


@pytest.mark.parametrize("loss", LOSSES)
def test_no_error_no_loss_and_no_gradient(loss: Callable[..., Tensor], device: str) -> None:
    x = torch.tensor([5.0, -1.0], device=device, requires_grad=True)
    value = loss(x, x.detach())
    value.sum().backward()
    assert value.tolist() == [0, 0]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0]


@pytest.mark.parametrize("loss", LOSSES)
def test_a_larger_error_costs_more(loss: Callable[..., Tensor], device: str) -> None:
    x = errors(device)
    x = x[x >= 0]
    assert (loss(x, torch.zeros_like(x)).diff() > 0).all()


@pytest.mark.parametrize("loss", [l1_loss, smooth_l1_loss, balanced_l1_loss])
def test_an_outlier_of_any_size_has_a_finite_loss_and_a_bounded_gradient(loss: Callable[..., Tensor], device: str) -> None:
    x = torch.tensor([1e30, -1e30], device=device)
    assert loss(x, torch.zeros_like(x)).isfinite().all()
    assert (slope(loss, x).abs() <= 1.5).all()


@pytest.mark.parametrize("beta", [0.125, 0.5, 1.0, 4.0])
def test_smooth_l1_is_torchs_and_beta_times_it_is_hubers(beta: float, device: str) -> None:
    x = errors(device)
    zero = torch.zeros_like(x)
    ours = smooth_l1_loss(x, zero, beta=beta)
    torch.testing.assert_close(ours, torch_smooth_l1_loss(x, zero, reduction="none", beta=beta))
    torch.testing.assert_close(beta * ours, huber_loss(x, zero, reduction="none", delta=beta))


def test_the_smallest_errors_of_smooth_l1_pull_in_proportion(device: str) -> None:
    """In float32, too, where one and an error this small is one."""
    x = torch.tensor([1e-8, -1e-6, 1e-4], device=device)
    torch.testing.assert_close(slope(smooth_l1_loss, x, beta=0.5), 2 * x, rtol=1e-6, atol=0)


def test_smooth_l1_becomes_l1_for_a_small_beta(device: str) -> None:
    x = errors(device)
    torch.testing.assert_close(smooth_l1_loss(x, torch.zeros_like(x), beta=1e-300), l1_loss(x, torch.zeros_like(x)))
    torch.testing.assert_close(slope(smooth_l1_loss, x, beta=1e-300), slope(l1_loss, x))


def test_smooth_l1_times_twice_beta_becomes_l2_for_a_large_beta(device: str) -> None:
    x = errors(device)
    torch.testing.assert_close(200 * smooth_l1_loss(x, torch.zeros_like(x), beta=100.0), l2_loss(x, torch.zeros_like(x)))


def test_balanced_l1_has_the_gradient_that_it_is_designed_from(device: str) -> None:
    x = errors(device)
    b = torch.e**3 - 1
    designed = torch.where(x.abs() < 1, (b * x.abs() + 1).log() / 2, 1.5) * x.sign()
    torch.testing.assert_close(slope(balanced_l1_loss, x), designed)


def test_balanced_l1_gives_inliers_more_gradient_than_smooth_l1_and_for_a_small_alpha_still_more(device: str) -> None:
    x = torch.linspace(0.05, 0.95, 19, dtype=torch.float64, device=device)
    gradients = [slope(smooth_l1_loss, x) * 1.5, *(slope(balanced_l1_loss, x, alpha=alpha) for alpha in (2.0, 1.0, 0.5, 0.25))]
    for less, more in pairwise(gradients):
        assert (less < more).all()


def test_balanced_l1_becomes_gamma_times_smooth_l1_for_a_large_alpha_and_gamma_times_l1_for_a_small_one(device: str) -> None:
    x = errors(device)
    zero = torch.zeros_like(x)
    torch.testing.assert_close(balanced_l1_loss(x, zero, alpha=1e4), 1.5 * smooth_l1_loss(x, zero), atol=1e-3, rtol=0)
    torch.testing.assert_close(balanced_l1_loss(x, zero, alpha=2.5e-3), 1.5 * l1_loss(x, zero), atol=4e-3, rtol=0)


@pytest.mark.parametrize("loss", [smooth_l1_loss, balanced_l1_loss])
def test_value_and_slope_are_continuous_where_the_pieces_meet(loss: Callable[..., Tensor], device: str) -> None:
    x = torch.tensor([1 - 1e-9, 1 + 1e-9], dtype=torch.float64, device=device)
    below, above = loss(x, torch.zeros_like(x))
    torch.testing.assert_close(below, above, atol=1e-8, rtol=0)
    below, above = slope(loss, x)
    torch.testing.assert_close(below, above, atol=1e-8, rtol=0)
