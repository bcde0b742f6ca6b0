"""Laws of the anchor refinement and its connection to the detector."""

import pytest
import torch

from reference_impl.heads import TransferConnection


def test_what_a_level_gets_comes_from_it_and_the_coarser_ones(device: str) -> None:
    torch.manual_seed(0)
    connection = TransferConnection([2, 3, 4], width=8).to(device)
    levels = [torch.randn(1, c, 4 * s, 6 * s, device=device) for c, s in ((2, 4), (3, 2), (4, 1))]
    before = connection(levels)
    for changed in range(3):
        after = connection([x + 1 if i == changed else x for i, x in enumerate(levels)])
        assert [not a.equal(b) for a, b in zip(after, before, strict=True)] == [i <= changed for i in range(3)]


def test_each_level_has_to_be_twice_the_next(device: str) -> None:
    connection = TransferConnection([2, 2], width=8).to(device)
    with pytest.raises(ValueError, match=r"`levels\[0\]` has size \(7, 8\); expected \(8, 8\)"):
        connection([torch.zeros(1, 2, 7, 8, device=device), torch.zeros(1, 2, 4, 4, device=device)])
