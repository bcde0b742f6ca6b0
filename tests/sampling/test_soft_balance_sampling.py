"""Laws of soft-balance sampling."""

import pytest
import torch
from torch import Tensor

from reference_impl.ops.draw import inverse_cdf
from reference_impl.sampling import soft_balance_sampling
from tests.inputs import AMOUNTS, Amount

DRAWS = 10_000


def images(*counts: int, device: str) -> Tensor:
    """So many images of each class, each with one class, in random order."""
    label = torch.cat([torch.full((count,), c) for c, count in enumerate(counts)])
    label = label[torch.randperm(len(label), generator=torch.Generator().manual_seed(0))]
    return torch.nn.functional.one_hot(label, len(counts)).bool().to(device)


def at(progress: float, device: str) -> Tensor:
    return torch.tensor(progress, dtype=torch.float64, device=device)


def chi_square(count: Tensor, expected: Tensor) -> float:
    return ((count - expected).square() / expected).sum().item()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 1.0])
def test_classes_are_drawn_in_proportion_to_a_power_of_their_images(device: str, alpha: float) -> None:
    counts = [400, 100, 20, 4, 1]
    shows = images(*counts, device=device)
    weight = soft_balance_sampling(shows, at(1, device), alpha=alpha)
    noise = torch.rand(DRAWS, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
    drawn, _ = inverse_cdf(weight, noise)
    expected = torch.tensor(counts, dtype=torch.float64, device=device) ** (1 - alpha)
    # 4 degrees of freedom, of which 23.5 is the 1 - 1e-4 quantile.
    assert chi_square(shows[drawn].sum(0), DRAWS * expected / expected.sum()) < 23.5
    last = DRAWS * weight[shows[:, 0]].sum() / 400
    # 399 degrees of freedom, of which 514 is the 1 - 1e-4 quantile.
    assert chi_square(drawn.bincount(minlength=525)[shows[:, 0]], last.expand(400)) < 514


def test_the_statistic_sees_another_power(device: str) -> None:
    shows = images(400, 100, 20, 4, 1, device=device)
    weight = soft_balance_sampling(shows, at(1, device), alpha=0.7)
    noise = torch.rand(DRAWS, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
    drawn, _ = inverse_cdf(weight, noise)
    expected = shows.sum(0).double() ** 0.4
    assert chi_square(shows[drawn].sum(0), DRAWS * expected / expected.sum()) > 23.5


def test_before_the_start_all_images_are_alike_and_after_it_some_are_never_drawn(device: str) -> None:
    shows = images(5, 3, 2, device=device)
    shows[4] = False
    assert (soft_balance_sampling(shows, at(0.49, device)) == 0.1).all()
    weight = soft_balance_sampling(shows, at(0.5, device))
    assert weight[4] == 0
    assert (weight[torch.arange(10, device=device) != 4] > 0).all()


def test_probabilities_add_up_to_1(device: str) -> None:
    shows = torch.rand(50, 7, generator=torch.Generator().manual_seed(0)).to(device) < 0.2
    for alpha in (0.0, 0.7, 1.0):
        for progress in (0.0, 1.0):
            weight = soft_balance_sampling(shows, at(progress, device), alpha=alpha)
            torch.testing.assert_close(weight.sum(), torch.ones_like(weight[0]))


def test_an_image_weighs_what_its_classes_weigh(device: str) -> None:
    """With class-aware sampling, half of all draws are of the one image of a rare class, whatever else it shows."""
    shows = images(99, 1, device=device)
    weight = soft_balance_sampling(shows, at(1, device), alpha=1.0)
    torch.testing.assert_close(weight[shows[:, 1]], torch.full_like(weight[:1], 0.5))
    shows[:, 0] = True
    both = soft_balance_sampling(shows, at(1, device), alpha=1.0)
    torch.testing.assert_close(both[shows[:, 1]], torch.full_like(weight[:1], 0.5 + 0.5 / 100))


@pytest.mark.parametrize("amount", AMOUNTS, ids=["at once", "in parts"])
def test_it_is_the_formula(amount: Amount, device: str) -> None:
    """Classes without an image, images without a class, and batches included."""
    n = 20
    shows = torch.rand(2, n, 30, generator=torch.Generator().manual_seed(0)) < torch.linspace(0, 0.2, 30)
    shows[:, 3] = False
    count = shows.sum(-2).double()
    share = torch.where(count > 0, count**0.3, 0)
    share = share / share.sum(-1, keepdim=True)
    expected = torch.where(shows, (share / count)[:, None], 0).sum(-1)
    expected[1] = 1 / n
    with amount():
        weight = soft_balance_sampling(shows.to(device), torch.tensor([0.5, 0.25], dtype=torch.float64, device=device))
    torch.testing.assert_close(weight.cpu(), expected)
