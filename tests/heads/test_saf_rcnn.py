"""Laws of the scale-aware gate and its two sub-networks."""

import torch
from torch import Tensor

from reference_impl.heads import SAFRCNN, gated_scores, saf_rcnn_loss, scale_aware_weight


def of_height(height: Tensor) -> Tensor:
    """Boxes somewhere, of these heights."""
    return torch.stack((0 * height + 3, 7 - height / 2, 0 * height + 9, 7 + height / 2), -1)


def scalar(value: float, device: str) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device=device)


def test_the_taller_the_more_the_large_one_counts(device: str) -> None:
    height = torch.linspace(1, 400, 200, dtype=torch.float64, device=device)
    weight = scale_aware_weight(of_height(height), scalar(100, device), scalar(1, device), scalar(20, device))
    assert (weight.diff() > 0).all()
    assert weight[0] < 0.01
    assert weight[-1] > 0.99


def test_large_and_small_mirror_each_other(device: str) -> None:
    """With alpha 1, as far above the mean height as below it, the two exchange their weights."""
    far = torch.linspace(0, 90, 10, dtype=torch.float64, device=device)
    given = scalar(100, device), scalar(1, device), scalar(20, device)
    above, below = (scale_aware_weight(of_height(100 + sign * far), *given) for sign in (1, -1))
    torch.testing.assert_close(above, 1 - below)


def test_the_gate_agrees_with_its_formula(device: str) -> None:
    height = torch.linspace(1, 300, 50, dtype=torch.float64, device=device)
    weight = scale_aware_weight(of_height(height), scalar(90, device), scalar(2.5, device), scalar(13, device))
    torch.testing.assert_close(weight, 1 / (1 + 2.5 * torch.exp(-(height - 90) / 13)))


def test_scores_are_probabilities(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    small, large = (torch.randn(2, 30, 4, generator=generator, dtype=torch.float64).to(device) for _ in range(2))
    weight = torch.rand(2, 30, generator=generator, dtype=torch.float64).to(device)
    scores = gated_scores(small, large, weight)
    torch.testing.assert_close(scores.sum(-1), torch.ones_like(weight))
    both = torch.stack((small.softmax(-1), large.softmax(-1)))
    assert ((scores >= both.amin(0) - 1e-12) & (scores <= both.amax(0) + 1e-12)).all()


def test_each_sub_network_learns_from_its_own_sizes(device: str) -> None:
    """The gradient of tall proposals goes to the large one, that of short ones to the small one."""
    torch.manual_seed(0)
    head = SAFRCNN(2, 1, 60.0, beta=5.0, size=3, hidden=8, dropout=0.0).double().to(device)
    pooled = torch.randn(1, 6, 2, 3, 3, dtype=torch.float64, device=device)
    labels, positive = torch.zeros(1, 6, dtype=torch.long, device=device), torch.ones(1, 6, dtype=torch.bool, device=device)
    for height, expert, other in ((160.0, head.large, head.small), (10.0, head.small, head.large)):
        scores, offsets = head(pooled, pooled, of_height(torch.full((1, 6), height, dtype=torch.float64, device=device)))
        by_class, by_box = saf_rcnn_loss(scores, offsets[..., 0, :], 0 * offsets[..., 0, :] + 1, labels, positive)
        head.zero_grad()
        (by_class + by_box).sum().backward()
        strong, weak = (sum(float(p.grad.abs().sum()) for p in part.parameters()) for part in (expert, other))
        assert strong > 1000 * weak > 0


def test_it_learns_what_one_head_cannot(device: str) -> None:
    """The same features mean an object if the proposal is short, and background if it is tall."""
    torch.manual_seed(0)
    head = SAFRCNN(2, 1, 60.0, size=3, hidden=8, dropout=0.0).to(device)
    pooled = torch.randn(1, 1, 2, 3, 3, device=device).expand(1, 40, -1, -1, -1)
    height = torch.linspace(20, 100, 40, device=device)[None]
    proposals, positive = of_height(height), height < 60
    labels, target = torch.zeros_like(positive, dtype=torch.long), torch.full((1, 40, 4), 0.25, device=device)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        scores, offsets = head(pooled, pooled, proposals)
        by_class, by_box = saf_rcnn_loss(scores, offsets[..., 0, :], target, labels, positive)
        loss = (by_class + by_box).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 4
    assert ((scores[..., 0] > 0.5) == positive).all()
    assert head.alpha != 1
    assert head.beta < 10
