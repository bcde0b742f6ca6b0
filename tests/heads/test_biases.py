"""Laws of the two initialisations of a classifier's bias."""

import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from reference_impl.heads import anchor_counts, optimal_bias, prior_bias


@pytest.mark.parametrize("prior", [1e-5, 0.01, 0.5, 0.9])
def test_a_layer_without_weights_predicts_the_prior(device: str, prior: float) -> None:
    bias = prior_bias(torch.zeros(3, dtype=torch.float64, device=device), prior=prior)
    torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, prior))


def test_background_costs_little_at_the_start(device: str) -> None:
    """The reason for it: 100 000 negatives of one class cost 1005 in place of 69 315."""
    bias = prior_bias(torch.zeros(1, dtype=torch.float64, device=device))
    logits = bias.expand(100_000)
    loss = binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="sum")
    assert loss.item() == pytest.approx(-100_000 * math.log(0.99))


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.5, 2.0])
def test_a_prior_is_a_probability(prior: float) -> None:
    with pytest.raises(ValueError, match="prior_bias"):
        prior_bias(torch.zeros(1), prior=prior)


def test_the_optimal_bias_has_no_gradient_to_follow(device: str) -> None:
    """Summed over all anchors and classes, cross entropy is stationary there: nothing is left to learn about the share."""
    classes = 4
    labels = torch.arange(1000, device=device) % 50
    target = torch.nn.functional.one_hot(labels, 50)[:, :classes].double()
    positives = (labels < classes).sum()
    bias = optimal_bias(target.new_zeros(classes), positives, 1000 - positives).requires_grad_()
    loss = binary_cross_entropy_with_logits(bias.expand_as(target), target, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, bias)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-10, rtol=0)
    for shift in (-0.1, 0.1):
        assert loss < binary_cross_entropy_with_logits((bias + shift).expand_as(target), target, reduction="sum")


def test_the_optimal_bias_is_the_prior_bias_of_the_share(device: str) -> None:
    empty = torch.zeros(80, dtype=torch.float64, device=device)
    counted = optimal_bias(empty, torch.tensor(3_000, device=device), torch.tensor(10_000_000, device=device))
    torch.testing.assert_close(counted, prior_bias(empty, prior=3_000 / 10_003_000 / 80))


def test_counts_of_a_pass_add_up(device: str) -> None:
    """Batch by batch or all at once; with one threshold every anchor is counted."""
    generator = torch.Generator().manual_seed(0)
    corner = 40 * torch.rand(6, 50, 2, generator=generator)
    anchors = torch.cat((corner, corner + 8 + 12 * torch.rand(6, 50, 2, generator=generator)), -1).to(device)
    boxes, valid = anchors[:, :4] + 2, (torch.rand(6, 4, generator=generator) < 0.7).to(device)
    positives, negatives = anchor_counts(anchors, boxes, valid)
    for images in (slice(0, 2), slice(2, 6)):
        some = anchor_counts(anchors[images], boxes[images], valid[images])
        assert some[0].equal(positives[images])
        assert some[1].equal(negatives[images])
    assert (positives + negatives < 50).any()
    assert sum(anchor_counts(anchors, boxes, valid, negative=0.5)).eq(50).all()
    one = optimal_bias(torch.zeros(1, device=device), positives.sum(), negatives.sum())
    torch.testing.assert_close(one.sigmoid()[0], positives.sum() / (positives + negatives).sum())
