"""Laws of drawing in proportion to weights."""

import torch

from reference_impl.ops.draw import inverse_cdf


def test_elements_are_drawn_as_often_as_they_weigh(device: str) -> None:
    torch.manual_seed(0)
    weight = torch.tensor([3.0, 0.0, 1.0, 2.0, 0.5, 1.5], dtype=torch.float64, device=device)
    index, within = inverse_cdf(weight, torch.rand(10_000, dtype=torch.float64, device=device))
    count = index.bincount(minlength=6).double()
    assert count[1] == 0
    expected = 10_000 * weight / weight.sum()
    # 4 degrees of freedom, of which 23.5 is the 1 - 1e-4 quantile.
    assert ((count - expected).square() / expected)[weight > 0].sum() < 23.5
    cell = (5 * within).long().clamp(max=4)
    for one in (0, 2, 3, 4, 5):
        count = cell[index == one].bincount(minlength=5).double()
        assert ((count - count.mean()).square() / count.mean()).sum() < 23.5


def test_nothing_without_weight_is_drawn_although_the_numbers_are_at_the_border(device: str) -> None:
    weight = torch.tensor([0.0, 1.0, 0.0, 0.0], device=device)
    index, _ = inverse_cdf(weight, torch.tensor([0.0, 0.5, 1 - 2**-24], device=device))
    assert index.tolist() == [1, 1, 1]
