"""Laws of retraining on hard examples."""

import torch
from torch import Tensor

from reference_impl.sampling import hard_example_retraining
from tests.sampling.mining import mine, windows
from tests.sampling.uniformity import BOUND, CANDIDATES, DRAWN, DRAWS, statistic


def test_with_room_enough_all_false_positives_join(device: str) -> None:
    logits, negative, initial = windows(device)
    assert hard_example_retraining(logits, negative, initial).bool().equal(negative & (initial | (logits > 0)))


def test_the_set_is_as_large_as_memory_and_the_initial_ones_stay(device: str) -> None:
    logits, negative, initial = windows(device)
    for size in (0, 30, 100, 150):
        chosen = hard_example_retraining(logits, negative, initial, size=size).bool()
        known = initial & negative
        assert chosen[known].all()
        assert not (chosen & ~known & (logits <= 0)).any()
        assert chosen.sum(-1).equal(known.sum(-1).clamp(min=size))


def test_every_subset_of_the_hard_examples_is_as_likely_as_any_other(device: str) -> None:
    torch.manual_seed(0)
    logits = torch.tensor([0.1, 0.7, 2.0, 9.0, 0.3, 4.0, -0.1, 5.0], dtype=torch.float64, device=device).expand(DRAWS, -1)
    initial = (torch.arange(8, device=device) == 7).expand(DRAWS, -1)
    chosen = hard_example_retraining(logits, torch.ones_like(initial), initial, size=DRAWN + 1)
    assert (chosen[:, 7] == 1).all()
    assert statistic(chosen[:, :CANDIDATES]) < BOUND


def test_one_round_is_enough() -> None:
    """As the authors found; and it teaches more than as many negatives drawn at random."""

    def select(logits: Tensor, initial: Tensor, noise: Tensor) -> Tensor:
        return hard_example_retraining(logits, torch.ones_like(initial), initial, noise)

    false_positives, with_random_ones, detected, _ = mine(select, 1)
    assert false_positives[1] < false_positives[0] / 3
    assert false_positives[1] < with_random_ones
    assert detected > 0.95
