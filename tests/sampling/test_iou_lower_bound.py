"""Laws of the IoU lower bound."""

import torch

from reference_impl.sampling import iou_lower_bound
from tests.sampling.uniformity import BOUND, CANDIDATES, DRAWN, DRAWS, statistic


def test_every_drawn_box_is_a_negative_between_the_bounds(device: str) -> None:
    iou = torch.rand(5, 400, device=device)
    negative = torch.rand_like(iou) < 0.5
    weight = iou_lower_bound(iou, negative, num_negatives=20)
    assert weight.sum(-1).eq(20).all()
    assert (iou[weight.bool()] >= 0.1).all()
    assert (iou[weight.bool()] < 0.5).all()
    assert weight[~negative].eq(0).all()


def test_without_bounds_it_is_random_sampling(device: str) -> None:
    noise = torch.rand(200, device=device)
    negative = torch.rand_like(noise) < 0.5
    weight = iou_lower_bound(torch.zeros_like(noise), negative, noise, num_negatives=10, lower=0.0)
    assert noise[weight.bool()].min() > noise[negative & ~weight.bool()].max()


def test_every_subset_between_the_bounds_is_as_likely_as_any_other(device: str) -> None:
    """Whatever their IoU, and beside ones that are out of bounds."""
    torch.manual_seed(0)
    iou = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.45, 0.49, 0.05, 0.6], device=device).expand(DRAWS, -1)
    weight = iou_lower_bound(iou, torch.ones_like(iou, dtype=torch.bool), num_negatives=DRAWN)
    assert statistic(weight[:, :CANDIDATES]) < BOUND


def test_too_few_candidates_are_all_taken(device: str) -> None:
    iou = torch.tensor([0.05, 0.2, 0.3, 0.7], device=device)
    assert iou_lower_bound(iou, torch.ones_like(iou, dtype=torch.bool)).tolist() == [0, 1, 1, 0]
