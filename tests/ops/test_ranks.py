"""Laws of ranks."""

import pytest
import torch

from reference_impl.ops import ranks
from reference_impl.ops.ranks import descending_order, descending_rank, rank_within_groups


def test_ranks_within_groups_are_those_of_a_slow_loop(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    key = torch.randint(0, 20, (4, 60), generator=generator)
    group = torch.randint(-2, 6, (4, 60), generator=generator)
    slow = [
        [
            sum(h == g and (other, j) < (own, i) for j, (other, h) in enumerate(zip(keys, groups, strict=True)))
            for i, (own, g) in enumerate(zip(keys, groups, strict=True))
        ]
        for keys, groups in zip(key.tolist(), group.tolist(), strict=True)
    ]
    assert rank_within_groups(key.to(device), group.to(device)).tolist() == slow


def test_the_ranks_of_one_group_are_a_permutation(device: str) -> None:
    value = torch.rand(3, 40, device=device)
    rank = descending_rank(value)
    assert rank.sort().values.equal(torch.arange(40, device=device).expand(3, 40))
    assert rank_within_groups(rank, torch.zeros_like(rank)).equal(rank)


def test_the_highest_value_has_rank_zero(device: str) -> None:
    value = torch.rand(3, 40, device=device)
    assert value.gather(-1, descending_rank(value).argmin(-1, keepdim=True)).squeeze(-1).equal(value.amax(-1))


def test_an_element_alone_in_its_group_has_rank_zero(device: str) -> None:
    key = torch.arange(10, device=device)
    assert rank_within_groups(key, 7 * key).eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_sorting_by_radix_is_a_stable_sort(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    special = torch.tensor([torch.inf, -torch.inf, 0.0, -0.0, 1e-30, -1e-30, 1.0, -1.0], dtype=dtype, device=device)
    for shape in [(40,), (3, 40), (2, 3, 40), (0, 40), (0,)]:
        value = special[torch.randint(8, shape, device=device)]
        expected = value.argsort(dim=-1, descending=True, stable=True)
        with monkeypatch.context() as patch:
            patch.setattr(ranks, "MANY", 1)
            assert descending_order(value).equal(expected)


@pytest.mark.parametrize("many", [1, 2**15])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_what_is_not_a_number_comes_last(dtype: torch.dtype, many: int, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """Whatever its sign, and however many elements there are; but before what does not take part."""
    monkeypatch.setattr(ranks, "MANY", many)
    value = torch.tensor([torch.nan, 1.0, -2.0, -torch.nan, torch.inf, torch.nan], dtype=dtype, device=device)
    assert descending_order(value).tolist() == [4, 1, 2, 0, 3, 5]
    among = torch.tensor([False, True, True, True, False, True], device=device)
    assert descending_order(value, among).tolist() == [1, 2, 3, 5, 0, 4]
