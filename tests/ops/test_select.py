"""The boxes that are taken are the first of a stable descending sort, however they were found."""

import pytest
import torch
from torch import Tensor

from reference_impl.ops.select import closest_pair, take, taker


def sorted_and_cut(score: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """Set by set, in words of Python."""
    n = score.shape[-1]
    taken = torch.zeros_like(among.view(-1, n))
    for s, a, k, t in zip(score.view(-1, n), among.view(-1, n), count.view(-1), taken, strict=True):
        candidates = [i for i in range(len(s)) if a[i]]
        t[sorted(candidates, key=lambda i: (-s[i].item(), i))[: max(0, int(k))]] = True
    return taken.view_as(among)


def sets(device: str, *batch: int, n: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Scores with many ties, signed zeros and infinities, and candidates."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.tensor([-torch.inf, -2.5, -1.0, -0.0, 0.0, 1e-30, 1.0, 3.0, torch.inf])
    score = values[torch.randint(len(values), (*batch, n), generator=draw)]
    return score.to(device), (torch.rand(*batch, n, generator=draw) < 0.6).to(device)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_first_of_a_stable_sort(dtype: torch.dtype, device: str) -> None:
    for seed in range(20):
        score, among = sets(device, 3, seed=seed)
        score = score.to(dtype)
        among[0] = True
        for count in (-1, 0, 1, 2, 7, 23, 39, 40, 41, 1000):
            expected = sorted_and_cut(score, among, torch.full((3, 1), count))
            assert torch.equal(take(score, among, count), expected), count
            assert torch.equal(take(score, among, torch.full((3, 1), count, device=device)), expected), count


def test_each_set_has_its_own_count(device: str) -> None:
    score, among = sets(device, 2, 3)
    count = torch.tensor([[0, 1, 5], [9, 30, 100]], device=device)[..., None]
    assert torch.equal(take(score, among, count), sorted_and_cut(score, among, count))


def test_nothing_to_choose_from(device: str) -> None:
    score, among = sets(device, 2, n=0)
    assert take(score, among, 3).shape == (2, 0)
    assert take(score, among, torch.tensor([[3], [0]], device=device)).shape == (2, 0)
    score, among = sets(device, 2)
    assert not take(score, torch.zeros_like(among), 3).any()
    assert not take(score, torch.zeros_like(among), torch.tensor([[3], [0]], device=device)).any()


def test_many_boxes(device: str) -> None:
    draw = torch.Generator().manual_seed(0)
    score = (torch.rand(200_000, generator=draw) * 1000).round().to(device)
    among = (torch.rand(200_000, generator=draw) < 0.9).to(device)
    order = score.masked_fill(~among, -1).argsort(descending=True, stable=True)[:512]
    expected = torch.zeros_like(among).scatter(0, order, True)
    assert torch.equal(take(score, among, 512), expected)
    assert torch.equal(take(score, among, torch.tensor([512], device=device)), expected)


@pytest.mark.parametrize("count", [3, torch.tensor([[3], [0]])], ids=["one count", "two counts"])
def test_one_graph_for_all_sizes(count: int | Tensor, device: str) -> None:
    compiled = torch.compile(take, fullgraph=True, backend="aot_eager", dynamic=True)
    count = count.to(device) if isinstance(count, Tensor) else count
    for n in (2, 9, 40):
        score, among = sets(device, 2, n=n)
        assert torch.equal(compiled(score, among, count), take(score, among, count))


def test_the_closest_pair_is_the_first_of_the_smallest(device: str) -> None:
    """With ties; and without two candidates none is close."""
    draw = torch.Generator().manual_seed(0)
    distance, among = torch.randint(0, 6, (30, 7, 7), generator=draw).double(), torch.rand(30, 7, generator=draw) < 0.5
    found = [x.cpu() for x in closest_pair(distance.to(device), among.to(device))]
    for i in range(30):
        pairs = [(float(distance[i, a, b]), a, b) for b in range(7) for a in range(b) if among[i, a] and among[i, b]]
        value, first, second = min(pairs, default=(torch.inf, None, None))
        assert found[2][i].item() == value
        assert not pairs or [found[0][i].item(), found[1][i].item()] == [first, second]


@pytest.mark.parametrize("count", [0, 1, 7, 40, 100])
def test_of_many_the_same_are_taken(count: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties, infinite scores and too few candidates included."""
    generator = torch.Generator().manual_seed(count)
    score = torch.randint(-3, 9, (6, 60), generator=generator).double().to(device)
    score[0, ::2], score[1, ::3] = torch.inf, -torch.inf
    among = (torch.rand(6, 60, generator=generator) < torch.linspace(0, 1, 6)[:, None]).to(device)
    expected = take(score, among, count)
    assert expected.sum(-1).equal(among.sum(-1).clamp(max=count))
    monkeypatch.setattr("reference_impl.ops.select.MANY", 1)
    assert take(score, among, count).equal(expected)
    assert take(score[:, :0], among[:, :0], count).shape == (6, 0)
    unknown = torch.cat((torch.full_like(score, torch.nan), score), -1)
    assert take(unknown, torch.cat((among, among), -1), count)[:, 60:].equal(expected)


@pytest.mark.parametrize("many", [1, 2**11])
def test_each_set_of_many_has_its_own_count(many: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is no whole number, as a share of something, or has no end; and a count for all sets may stand once."""
    monkeypatch.setattr("reference_impl.ops.select.MANY", many)
    score, among = sets(device, 2, 3)
    count = torch.tensor([[0, 1.5, 5], [9.9, torch.inf, -3]], device=device)[..., None]
    whole = count.clamp(0, 40).long()
    assert torch.equal(take(score, among, count), sorted_and_cut(score, among, whole))
    for function in (take, torch.compile(take, fullgraph=True, backend="eager")):
        assert torch.equal(function(score, among, whole, 40), sorted_and_cut(score, among, whole))
    for most in (None, 2):
        assert torch.equal(take(score, among, count[0, 1], most), sorted_and_cut(score, among, torch.full_like(whole, 1)))
    assert take(score[:0], among[:0], count[:0]).shape == (0, 3, 40)


@pytest.mark.parametrize("many", [1, 2**11])
def test_a_taker_takes_the_same_of_any_set(many: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reference_impl.ops.select.MANY", many)
    score, among = sets(device, 3)
    draw, count = taker(score), torch.tensor([[0], [7], [100]], device=device)
    for candidates in (among, ~among):
        for number, most in ((5, 5), (count, 100)):
            assert torch.equal(draw(candidates, number, most), take(score, candidates, number))


@pytest.mark.parametrize("many", [1, 2**11])
def test_a_candidate_without_a_number_is_taken_last(many: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But it is taken where there is room, and nothing that is no candidate in its place."""
    for module in ("select", "ranks"):
        monkeypatch.setattr(f"reference_impl.ops.{module}.MANY", many)
    score = torch.tensor([torch.nan, 1.0, torch.nan, 3.0, torch.nan, 2.0], device=device)
    among = torch.tensor([False, True, False, False, True, True], device=device)
    for function in (take, torch.compile(take, fullgraph=True, backend="eager", dynamic=False)):
        for count, expected in ((0, []), (1, [5]), (2, [1, 5]), (3, [1, 4, 5]), (9, [1, 4, 5])):
            assert function(score, among, count).nonzero().squeeze(-1).tolist() == expected
            assert function(score, among, torch.tensor([count], device=device)).nonzero().squeeze(-1).tolist() == expected
