"""Laws of ranks."""

from math import isnan

import pytest
import torch
from torch import Tensor

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
    special = torch.tensor([torch.inf, -torch.inf, 0.0, -0.0, 1e-30, -1e-30, 1.0, -1.0, torch.nan, -torch.nan], dtype=dtype, device=device)
    for shape in [(40,), (3, 40), (2, 3, 40), (0, 40), (0,)]:
        value = special[torch.randint(10, shape, device=device)]
        for among in (None, torch.rand(shape, device=device) < 0.5):
            expected = _sorted(value, torch.ones_like(value, dtype=torch.bool) if among is None else among)
            assert descending_order(value, among).equal(expected)
            with monkeypatch.context() as patch:
                patch.setattr(ranks, "MANY", 1)
                assert descending_order(value, among).equal(expected)


def _sorted(value: Tensor, among: Tensor) -> Tensor:
    """What is not among them, or not a number, comes last."""
    rows, shape = [], (value.shape[:-1].numel(), value.shape[-1])
    for x, wanted in zip(value.view(shape).tolist(), among.view(shape).tolist(), strict=True):
        last = [isnan(a) or not b for a, b in zip(x, wanted, strict=True)]
        rows.append(sorted(range(len(x)), key=lambda i: (last[i], 0 if last[i] else -x[i])))
    return torch.tensor(rows, device=value.device, dtype=torch.int64).view(value.shape)
