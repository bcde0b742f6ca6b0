"""Laws of the class-adaptive threshold."""

import torch
from torch import Tensor

from reference_impl.heads import class_adaptive_threshold, optimal_bias


def numbers(*values: int, device: str) -> Tensor:
    return torch.tensor(values, device=device)


def lowest(counts: Tensor, positives: int, negatives: int) -> Tensor:
    """The threshold of each class, by trying many scores."""
    scores = torch.arange(1, 2001, dtype=torch.float64, device=counts.device)[:, None] / 2000
    kept = class_adaptive_threshold(
        scores.expand(-1, len(counts)), counts, *(torch.tensor(x, device=counts.device) for x in (positives, negatives))
    )
    return 1 - kept.double().mean(0)


def test_with_equal_classes_it_is_where_the_optimal_bias_starts(device: str) -> None:
    found = lowest(numbers(7, 7, 7, 7, device=device), 20, 80)
    start = optimal_bias(torch.zeros(4, dtype=torch.float64, device=device), *numbers(20, 80, device=device)).sigmoid()
    torch.testing.assert_close(found, start, atol=1e-3, rtol=0)


def test_thresholds_are_in_the_ratio_of_the_instances_and_add_up_to_the_share_of_foreground(device: str) -> None:
    counts = numbers(100, 200, 50, 650, device=device)
    found = lowest(counts, 400, 600)
    torch.testing.assert_close(found, 0.4 * counts.double() / 1000, atol=1e-3, rtol=0)


def test_each_anchor_that_says_no_more_than_the_data_is_dropped(device: str) -> None:
    """COCO's foreground is some 0.09 % of RetinaNet's anchors: scores of 0.01 are kept for every class."""
    counts = numbers(257_253, 7_056, 198, device=device)
    p = torch.tensor([[1e-6, 1e-6, 1e-6], [1e-4, 1e-4, 1e-4], [0.01, 0.01, 0.01]], device=device)
    kept = class_adaptive_threshold(p, counts, *numbers(900, 1_000_000, device=device))
    assert kept.tolist() == [[False, False, True], [False, True, True], [True, True, True]]
