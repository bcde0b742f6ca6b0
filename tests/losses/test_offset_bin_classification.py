"""Laws of offset bin classification."""

import torch

from reference_impl.losses import expected_offset, offset_bin_classification


def test_the_gradient_is_bounded_however_far_the_offset(device: str) -> None:
    target = 10 ** torch.linspace(-6, 6, 200, dtype=torch.float64, device=device)
    logits = torch.randn(200, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device).requires_grad_()
    (gradient,) = torch.autograd.grad(offset_bin_classification(logits, target).sum(), logits)
    assert gradient.abs().max() < 1
    torch.testing.assert_close(gradient.sum(-1), torch.zeros_like(target), atol=1e-12, rtol=0)


def test_only_the_bin_of_the_target_matters(device: str) -> None:
    logits = torch.randn(1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
    target = torch.linspace(-1, 1, 801, dtype=torch.float64, device=device)[:-1]
    loss = offset_bin_classification(logits.expand(800, 8), target).reshape(8, 100)
    assert (loss == loss[:, :1]).all()
    torch.testing.assert_close(loss[:, 0], -logits[0].log_softmax(-1))


def test_an_offset_in_the_right_bin_is_read_back_within_half_a_bin(device: str) -> None:
    target = torch.linspace(-0.999, 0.999, 500, dtype=torch.float64, device=device)
    for bins in (1, 2, 10, 40):
        places = -1 + (2 * torch.arange(bins, dtype=torch.float64, device=device) + 1) / bins
        sure = -1e4 * (target[:, None] - places).abs()
        assert (offset_bin_classification(sure, target) < 1).all()
        assert (expected_offset(sure) - target).abs().max() <= 1 / bins + 1e-9


def test_a_shifted_range_shifts_the_offsets(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = (torch.randn(*s, generator=generator, dtype=torch.float64).to(device) for s in ((50, 6), (50,)))
    shifted = {"lowest": 4.0, "highest": 8.0}
    torch.testing.assert_close(offset_bin_classification(logits, 6 + 2 * target, **shifted), offset_bin_classification(logits, target))
    torch.testing.assert_close(expected_offset(logits, **shifted), 6 + 2 * expected_offset(logits))


def test_training_finds_the_expectation(device: str) -> None:
    """One input whose offset is now in one bin and now in its neighbour: the expectation ends between their middles."""
    target = torch.tensor([0.05, 0.25, 0.05, 0.05], dtype=torch.float64, device=device)
    logits = torch.zeros(1, 10, dtype=torch.float64, device=device, requires_grad=True)
    optimiser = torch.optim.SGD([logits], lr=2.0)
    seen = []
    for _ in range(200):
        loss = offset_bin_classification(logits.expand(4, 10), target).mean()
        seen.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert seen[-1] < seen[0]
    assert abs(expected_offset(logits).item() - (0.75 * 0.1 + 0.25 * 0.3)) < 0.02
