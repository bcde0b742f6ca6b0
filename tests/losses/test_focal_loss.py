"""Laws of focal loss."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from reference_impl.losses import focal_loss, focal_weight


def test_without_focus_it_is_half_of_cross_entropy(device: str) -> None:
    logits = torch.randn(20, 3, dtype=torch.float64, device=device)
    labels = torch.randint(0, 4, (20,), device=device)
    target = one_hot(labels, 4)[:, :3].double()
    expected = binary_cross_entropy_with_logits(logits, target, reduction="none").sum(-1) / 2
    torch.testing.assert_close(focal_loss(logits, labels, gamma=0.0, alpha=0.5), expected)


def test_an_example_counts_less_the_surer_it_is(device: str) -> None:
    weight = focal_weight(torch.linspace(0, 1, 50, device=device), gamma=1.5)
    assert weight.diff().le(0).all()
    assert weight[0].item() == 1
    assert weight[-1].item() < 1e-30


def test_the_sign_of_a_logit_and_the_class_change_places(device: str) -> None:
    """With alpha 1/2, one class that is there is as good as one that is not, seen from the other side."""
    logits = torch.randn(30, 1, dtype=torch.float64, device=device)
    there = torch.zeros(30, dtype=torch.int64, device=device)
    torch.testing.assert_close(focal_loss(logits, there, alpha=0.5), focal_loss(-logits, there + 1, alpha=0.5))


def test_very_easy_boxes_keep_their_digits(device: str) -> None:
    """In float32, too: the error of a box with logit -15 is the exponential of that, not what rounding 1 - p leaves of it."""
    logits = torch.full((1, 1), -15.0, device=device)
    background = torch.ones(1, dtype=torch.int64, device=device)
    exact = focal_loss(logits.double(), background)
    torch.testing.assert_close(focal_loss(logits, background).double(), exact, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("n", [1, 20_000])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_certainty_has_a_gradient_only_where_it_is_wrong(gamma: float, n: int, device: str) -> None:
    """Also for powers below 1, whose slope is infinite where the error is 0."""
    logits = torch.tensor([800.0, -800.0], dtype=torch.float64, device=device).repeat(n, 1).requires_grad_()
    right, wrong = torch.zeros(n, dtype=torch.int64, device=device), torch.ones(n, dtype=torch.int64, device=device)
    for labels, slope in ((right, [0.0, 0.0]), (wrong, [0.75, -0.25])):
        (gradient,) = torch.autograd.grad(focal_loss(logits, labels, gamma=gamma).sum(), logits)
        torch.testing.assert_close(gradient, logits.new_tensor(slope).expand(n, 2))
