"""Laws of the KL loss and of variance voting."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gaussian_nll_loss

from reference_impl.losses import kl_loss, smooth_l1_loss, variance_voting


def test_it_is_smooth_l1_where_the_variance_is_one(device: str) -> None:
    x = torch.linspace(-3, 3, 61, device=device)
    zero = torch.zeros_like(x)
    torch.testing.assert_close(kl_loss(x, zero, zero), smooth_l1_loss(x, zero))


def test_within_the_threshold_it_is_the_likelihood_of_a_gaussian(device: str) -> None:
    x = torch.linspace(-1, 1, 21, dtype=torch.float64, device=device)
    log_variance = torch.linspace(-4, 4, 21, dtype=torch.float64, device=device)
    likelihood = gaussian_nll_loss(x, torch.zeros_like(x), log_variance.exp(), reduction="none")
    torch.testing.assert_close(kl_loss(x, torch.zeros_like(x), log_variance), likelihood)


@pytest.mark.parametrize("error", [0.25, 1.0, 3.0])
def test_the_best_variance_is_twice_the_smooth_l1_of_the_error(error: float, device: str) -> None:
    x = torch.tensor(error, dtype=torch.float64, device=device)
    best = (2 * smooth_l1_loss(x, torch.zeros_like(x))).log().requires_grad_()
    loss = kl_loss(x, torch.zeros_like(x), best)
    assert torch.autograd.grad(loss, best)[0].abs() < 1e-12
    for step in (-0.1, 0.1):
        assert kl_loss(x, torch.zeros_like(x), best + step) > loss


def test_a_sure_coordinate_pulls_in_proportion_to_the_smallest_error(device: str) -> None:
    """In float32, too, where a rounding error would count as often as the error."""
    x = torch.tensor([1e-8, -1e-6, 1e-4], device=device, requires_grad=True)
    kl_loss(x, torch.zeros(3, device=device), torch.full((3,), -10.0, device=device)).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, x.detach() * torch.tensor(10.0, device=device).exp(), rtol=1e-5, atol=0)


def test_an_unsure_coordinate_has_less_gradient(device: str) -> None:
    x = torch.tensor([0.5, 0.5, 0.5], device=device, requires_grad=True)
    kl_loss(x, torch.zeros(3, device=device), torch.tensor([-1.0, 0.0, 1.0], device=device)).sum().backward()
    assert x.grad is not None
    assert (x.grad.diff() < 0).all()


def test_any_log_variance_is_finite(device: str) -> None:
    log_variance = torch.tensor([-100.0, 100.0], device=device, requires_grad=True)
    x = torch.tensor([2.0, 2.0], device=device, requires_grad=True)
    loss = kl_loss(x, torch.zeros(2, device=device), log_variance)
    loss.sum().backward()
    for value in (loss, x.grad, log_variance.grad):
        assert value is not None
        assert value.isfinite().all()


def scene(device: str, *, batch: tuple[int, ...] = (), k: int = 5, n: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(*batch, n, 2, generator=generator, dtype=torch.float64) * 20
    size = torch.rand(*batch, n, 2, generator=generator, dtype=torch.float64) * 20 + 1
    pred = torch.cat((corner, corner + size), -1).to(device)
    return pred[..., :k, :], pred, torch.randn(*batch, n, 4, generator=generator, dtype=torch.float64).to(device)


def test_voting_is_the_weighted_mean_of_the_definition(device: str) -> None:
    boxes, pred, log_variance = scene(device)
    for b, voted in zip(boxes, variance_voting(boxes, pred, log_variance, sigma_t=0.1), strict=True):
        top, bottom = torch.zeros(4, dtype=torch.float64, device=device), torch.zeros(4, dtype=torch.float64, device=device)
        for c, a in zip(pred, log_variance, strict=True):
            shared = (torch.minimum(b[2:], c[2:]) - torch.maximum(b[:2], c[:2])).clamp(min=0).prod()
            iou = shared / ((b[2:] - b[:2]).prod() + (c[2:] - c[:2]).prod() - shared)
            if iou > 0:
                weight = (-((1 - iou) ** 2) / 0.1).exp() / a.exp()
                top, bottom = top + weight * c, bottom + weight
        torch.testing.assert_close(voted, top / bottom)


def test_a_vote_stays_within_the_predictions_and_ignores_the_level_of_the_variances(device: str) -> None:
    boxes, pred, log_variance = scene(device, batch=(3,))
    voted = variance_voting(boxes, pred, log_variance)
    assert (voted >= pred.amin(-2, keepdim=True)).all()
    assert (voted <= pred.amax(-2, keepdim=True)).all()
    torch.testing.assert_close(voted, variance_voting(boxes, pred, log_variance + 50))


def test_a_prediction_that_is_far_surer_than_the_others_wins(device: str) -> None:
    boxes, pred, log_variance = scene(device, k=1)
    log_variance[0] = -1e4
    torch.testing.assert_close(variance_voting(boxes, pred, log_variance), boxes)


def test_a_narrow_vote_leaves_distinct_boxes_where_they_are(device: str) -> None:
    boxes, pred, log_variance = scene(device)
    torch.testing.assert_close(variance_voting(boxes, pred, log_variance, sigma_t=1e-6), boxes)


def test_a_box_that_nothing_overlaps_stays(device: str) -> None:
    boxes, pred, log_variance = scene(device)
    torch.testing.assert_close(variance_voting(boxes + 1000, pred, log_variance), boxes + 1000)
    torch.testing.assert_close(variance_voting(boxes, pred[:0], log_variance[:0]), boxes)
    assert variance_voting(boxes[:0], pred, log_variance).shape == (0, 4)
