"""Laws of the equalization loss and of its second version."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from reference_impl.losses import equalization_loss, equalization_loss_v2, equalization_v2_gradients, equalization_v2_scores
from tests.inputs import all_input_is_large

C = 5


def boxes(device: str, n: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, C, generator=generator, dtype=torch.float64)
    return logits.to(device), torch.randint(C + 1, (n,), generator=generator).to(device)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    own = (labels[:, None] == torch.arange(C, device=labels.device)).to(logits.dtype)
    return binary_cross_entropy_with_logits(logits, own, reduction="none")


def test_without_rare_classes_it_is_cross_entropy(device: str) -> None:
    logits, labels = boxes(device)
    frequency = torch.full((C,), 0.5, device=device)
    torch.testing.assert_close(equalization_loss(logits, labels, frequency), cross_entropy(logits, labels).sum(-1))


def test_if_all_are_rare_an_object_trains_its_own_class_only_and_background_all(device: str) -> None:
    logits, labels = boxes(device)
    plain = cross_entropy(logits, labels)
    own = plain.gather(-1, labels.clamp(max=C - 1)[:, None])[:, 0]
    expected = torch.where(labels == C, plain.sum(-1), own)
    torch.testing.assert_close(equalization_loss(logits, labels, torch.zeros(C, device=device)), expected)


def test_the_logit_of_a_rare_class_has_no_gradient_from_other_objects(device: str) -> None:
    logits, labels = boxes(device)
    logits.requires_grad_()
    frequency = torch.tensor([0.5, 0.5, 1e-4, 0.5, 0.5], device=device)
    equalization_loss(logits, labels, frequency).sum().backward()
    assert logits.grad is not None
    spared = (labels != 2) & (labels != C)
    assert (logits.grad[spared, 2] == 0).all()
    assert (logits.grad[~spared, 2] != 0).all()


def test_frequencies_that_change_after_the_call_change_no_gradient(device: str) -> None:
    """Of much input, whose gradient is made again for a second backward pass."""
    logits, labels = boxes(device)
    logits.requires_grad_()
    frequency = torch.zeros(C, device=device)
    with all_input_is_large():
        loss = equalization_loss(logits, labels, frequency).sum()
        before = torch.autograd.grad(loss, logits, retain_graph=True)
        frequency.fill_(1)
        torch.testing.assert_close(torch.autograd.grad(loss, logits), before)


def test_at_the_start_and_in_balance_version_two_is_cross_entropy(device: str) -> None:
    logits, labels = boxes(device)
    zeros, ones = torch.zeros(C, device=device), torch.ones(C, device=device)
    expected = cross_entropy(logits, labels).sum(-1)
    torch.testing.assert_close(equalization_loss_v2(logits, labels, zeros, zeros), expected)
    torch.testing.assert_close(equalization_loss_v2(logits, labels, 100 * ones, ones), expected)


def test_a_class_far_out_of_balance_is_hardly_pushed_and_pulled_five_times(device: str) -> None:
    logits, labels = boxes(device)
    plain = cross_entropy(logits, labels)
    own = labels[:, None] == torch.arange(C, device=device)
    loss = equalization_loss_v2(logits, labels, torch.zeros(C, device=device), torch.ones(C, device=device), mu=2.0)
    torch.testing.assert_close(loss, (plain * torch.where(own, 5, 0)).sum(-1), rtol=1e-6, atol=1e-6)


def test_the_accumulated_gradients_are_those_of_the_loss(device: str) -> None:
    logits, labels = boxes(device)
    logits.requires_grad_()
    state = torch.linspace(1, 2, C, device=device), torch.linspace(3, 2, C, device=device)
    equalization_loss_v2(logits, labels, *state).sum().backward()
    assert logits.grad is not None
    pull, push = equalization_v2_gradients(logits, labels, *state)
    torch.testing.assert_close(pull, -logits.grad.clamp(max=0).sum(0))
    torch.testing.assert_close(push, logits.grad.clamp(min=0).sum(0))


def test_pulling_and_pushing_come_to_rest_in_balance(device: str) -> None:
    """One class with one positive among a hundred boxes: its ratio of gradients rises to where the weights hold it."""
    logits = torch.zeros(100, 1, device=device)
    labels = torch.ones(100, dtype=torch.int64, device=device)
    labels[0] = 0
    positive, negative = torch.zeros(1, device=device), torch.zeros(1, device=device)
    for _ in range(300):
        pull, push = equalization_v2_gradients(logits, labels, positive, negative)
        positive, negative = positive + pull, negative + push
    assert 0.3 < (positive / negative).item() < 0.8


def test_background_scales_all_scores_of_a_box_alike(device: str) -> None:
    logits, _ = boxes(device)
    low, high = (equalization_v2_scores(logits, torch.full((len(logits),), b, device=device, dtype=torch.float64)) for b in (-2.0, 2.0))
    ratio = high / low
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio))
    assert (ratio < 1).all()


def test_any_logit_of_background_is_finite(device: str) -> None:
    logits, labels = boxes(device)
    zeros = torch.zeros(C, device=device)
    for b in (-100.0, 100.0):
        background = torch.full((len(labels),), b, device=device, requires_grad=True)
        loss = equalization_loss_v2(logits, labels, zeros, zeros, background)
        loss.sum().backward()
        assert loss.isfinite().all()
        assert background.grad is not None
        assert background.grad.isfinite().all()
