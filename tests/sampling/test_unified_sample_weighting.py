"""Laws of the unified sample weighting network."""

import pytest
import torch
from torch import Tensor

from reference_impl.sampling import SampleWeightingNetwork, averaged_log_variance, sample_weighting_loss, unified_sample_weighting


def boxes(device: str) -> dict[str, Tensor]:
    """A mini-batch of 200 boxes; the loss of a positive falls with its score, that of a negative is small."""
    generator = torch.Generator().manual_seed(0)
    positive = torch.rand(200, generator=generator) < 0.3
    p_s = torch.rand(200, generator=generator, dtype=torch.float64) * 0.98 + 0.01
    iou = torch.rand(200, generator=generator, dtype=torch.float64)
    regression = (1 - iou)[:, None] * torch.rand(200, 4, generator=generator, dtype=torch.float64)
    found = {
        "loss": torch.where(positive, -p_s.log(), -p_s.log() / 10),
        "regression_loss": torch.where(positive[:, None], regression, 0),
        "iou": torch.where(positive, iou, 0),
        "p_s": torch.where(positive, p_s, 0),
        "positive": positive,
    }
    return {name: x.to(device) for name, x in found.items()}


def network(device: str) -> SampleWeightingNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SampleWeightingNetwork().double().to(device)


def objective(net: SampleWeightingNetwork, b: dict[str, Tensor]) -> Tensor:
    log_variance = net(b["loss"], b["regression_loss"], b["iou"], b["p_s"])
    classification = sample_weighting_loss(b["loss"], log_variance[..., 0], torch.ones_like(b["positive"]))
    regression = sample_weighting_loss(b["regression_loss"].sum(-1), log_variance[..., 1], b["positive"])
    return classification.mean() + regression.sum() / b["positive"].sum()


def test_every_box_starts_with_weight_one(device: str) -> None:
    b = boxes(device)
    log_variance = network(device)(b["loss"], b["regression_loss"], b["iou"], b["p_s"])
    weight = unified_sample_weighting(log_variance[..., 0], torch.ones_like(b["positive"]))
    torch.testing.assert_close(weight, torch.ones_like(weight), atol=1e-6, rtol=0)


def test_the_network_learns(device: str) -> None:
    """A few steps lower the objective, and hard positives end up with less weight than easy ones, as the optimum has it."""
    b, net = boxes(device), network(device)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    course = []
    for _ in range(120):
        value = objective(net, b)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        course.append(value.item())
    assert course[10] < course[0]
    assert course[-1] < course[10] - 0.01
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    weight = unified_sample_weighting(net(b["loss"], b["regression_loss"], b["iou"], b["p_s"])[..., 0], b["positive"])[b["positive"]]
    order = b["loss"][b["positive"]].argsort()
    assert weight[order[:15]].mean() > 1.5 * weight[order[-15:]].mean()


def test_the_best_weight_is_the_price_over_the_loss(device: str) -> None:
    loss = torch.tensor([0.125, 0.5, 2.0], dtype=torch.float64, device=device)
    best = (loss / 0.5).log().requires_grad_()
    valid = torch.ones(3, dtype=torch.bool, device=device)
    value = sample_weighting_loss(loss, best, valid)
    (gradient,) = torch.autograd.grad(value.sum(), best)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))
    torch.testing.assert_close(unified_sample_weighting(best, valid), 0.5 / loss)
    for shift in (-0.1, 0.1):
        assert (sample_weighting_loss(loss, best + shift, valid) > value).all()


def test_the_detector_sees_the_weighted_gradient_only(device: str) -> None:
    """The properties are constants to the network: the gradient on a loss is its weight."""
    b, net = boxes(device), network(device)
    loss = b["loss"].requires_grad_()
    log_variance = net(loss, b["regression_loss"], b["iou"], b["p_s"])[..., 0]
    valid = torch.ones_like(b["positive"])
    (gradient,) = torch.autograd.grad(sample_weighting_loss(loss, log_variance, valid).sum(), loss)
    torch.testing.assert_close(gradient, unified_sample_weighting(log_variance, valid))


def test_masks_are_a_third_task(device: str) -> None:
    """It starts with weight 1 as well, and its loss is a constant as well."""
    b = boxes(device)
    net, mask_loss = SampleWeightingNetwork(masks=True).double().to(device), (b["iou"] / 2).requires_grad_()
    log_variance = net(b["loss"], b["regression_loss"], b["iou"], b["p_s"], mask_loss)
    assert log_variance.shape == (200, 3)
    weight = unified_sample_weighting(log_variance[..., 2], b["positive"])
    torch.testing.assert_close(weight, b["positive"].to(weight), atol=1e-6, rtol=0)
    (gradient,) = torch.autograd.grad(sample_weighting_loss(mask_loss, log_variance[..., 2], b["positive"]).sum(), mask_loss)
    torch.testing.assert_close(gradient, weight)


@pytest.mark.parametrize(("masks", "said"), [(True, "missing"), (False, "not expected")])
def test_a_loss_of_masks_goes_with_masks(masks: bool, said: str, device: str) -> None:
    b = boxes(device)
    given = (b["loss"], b["regression_loss"], b["iou"], b["p_s"], *([] if masks else [b["iou"]]))
    with pytest.raises(ValueError, match=f"`mask_loss` is {said}"):
        SampleWeightingNetwork(masks=masks).double().to(device)(*given)


def test_the_mean_is_kept_and_shared(device: str) -> None:
    b = boxes(device)
    value = torch.linspace(-1.5, 1.5, 200, dtype=torch.float64, device=device)
    averaged = averaged_log_variance(value, b["positive"], ~b["positive"])
    for role in (b["positive"], ~b["positive"]):
        torch.testing.assert_close(averaged[role], value[role].mean().expand(int(role.sum())))
