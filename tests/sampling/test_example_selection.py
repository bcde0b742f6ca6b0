"""Laws of example selection."""

import torch
from torch import Tensor

from reference_impl.sampling import bootstrapping, example_selection
from tests.sampling.mining import mine


def windows(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of five sets of 400 windows, which are negatives, and which are in the set."""
    generator = torch.Generator().manual_seed(0)
    score = torch.rand(5, 400, generator=generator, dtype=torch.float64)
    negative, mined = (torch.rand(5, 400, generator=generator) < share for share in (0.9, 0.2))
    return score.to(device), negative.to(device), mined.to(device)


def test_it_is_bootstrapping_without_a_limit(device: str) -> None:
    score, negative, mined = windows(device)
    for known in (mined, None):
        assert example_selection(score, negative, known).equal(bootstrapping(score, negative, known, size=400))


def test_a_set_holds_the_mistakes_of_all_classifiers_so_far(device: str) -> None:
    score, negative, mined = windows(device)
    expected = mined & negative
    for shift in (0.0, -0.2, 0.3):
        mined = example_selection(score + shift, negative, mined).bool()
        expected = expected | (negative & (score + shift > 0.5))
        assert mined.equal(expected)


def test_selected_negatives_teach_more_than_random_ones() -> None:
    """And when no mistake is left, the set stays as it is."""

    def select(logits: Tensor, mined: Tensor, noise: Tensor) -> Tensor:
        return example_selection(logits.sigmoid(), torch.ones_like(mined), mined)

    false_positives, with_random_ones, detected, sizes = mine(select, 3)
    assert sizes[1] > sizes[0]
    assert sizes[2:] == [sizes[1], sizes[1]]
    assert false_positives[-1] < false_positives[0] / 4
    assert false_positives[-1] < with_random_ones
    assert detected > 0.95
