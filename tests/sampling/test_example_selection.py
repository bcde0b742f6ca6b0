"""Laws of example selection."""

import torch
from torch import Tensor

from reference_impl.sampling import bootstrapping, example_selection
from tests.sampling.mining import mine, windows


def test_it_is_bootstrapping_without_a_limit(device: str) -> None:
    logits, negative, mined = windows(device)
    score = logits.sigmoid()
    for known in (mined, None):
        assert example_selection(score, negative, known).equal(bootstrapping(score, negative, known, size=400))


def test_a_set_holds_the_mistakes_of_all_classifiers_so_far(device: str) -> None:
    logits, negative, mined = windows(device)
    expected = mined & negative
    for shift in (0.0, -0.5, 1.0):
        mined = example_selection((logits + shift).sigmoid(), negative, mined).bool()
        expected = expected | (negative & (logits + shift > 0))
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
