"""Laws of soft ranks."""

import pytest
import torch
from torch import Tensor

from reference_impl.losses import rank_sort_loss
from reference_impl.ops import soft_ranks
from reference_impl.ops.soft_ranks import Ramps, Ranking, SquareRamps, descending, pack


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def depths(device: str, *shape: int, spread: float) -> Tensor:
    """Ascending, with many ties."""
    return ((draw(*shape) * 20).round() / 20 * spread).sort(dim=-1).values.to(device)


@pytest.fixture(params=[0, soft_ranks.SMALL], ids=["by sorting", "by a matrix"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soft_ranks, "SMALL", request.param)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("spread", [0.1, 3.0, 20.0, 1000.0, 1e9])
def test_products_are_those_of_the_matrix_of_pairs(device: str, spread: float) -> None:
    score, positive = depths(device, 3, 50, spread=spread), depths(device, 3, 7, spread=spread * 1.1)
    matrix = (positive[..., :, None] - score[..., None, :] + 0.5).clamp(0, 1)
    on_scores, on_positives = draw(3, 50).to(device), draw(3, 7).to(device)
    ramps = Ramps(positive, score)
    torch.testing.assert_close(ramps.times(), matrix.sum(-1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ramps.times(on_scores), torch.einsum("bij,bj->bi", matrix, on_scores), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ramps.transposed_times(on_positives), torch.einsum("bij,bi->bj", matrix, on_positives), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("spread", [5.0, 1e9])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 50])
def test_products_with_the_worse_alone(device: str, n: int, spread: float) -> None:
    depth, quality, weight = depths(device, 3, n, spread=spread), (draw(3, n, seed=1) * 6).round().to(device), draw(3, 2, n).to(device)
    matrix = (depth[..., :, None] - depth[..., None, :] + 0.5).clamp(0, 1) * (quality[..., None, :] < quality[..., :, None])
    ramps = SquareRamps(depth, quality)
    torch.testing.assert_close(ramps.times_worse(weight), torch.einsum("bij,bvj->bvi", matrix, weight), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ramps.transposed_times_worse(weight), torch.einsum("bij,bvi->bvj", matrix, weight), rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("small")
def test_a_distant_score_costs_no_digits(device: str) -> None:
    """Far above it counts as one false positive, far below as none, wherever the scores lie."""
    logits, labels = (draw(40, 1) * 4).to(device), torch.tensor([0, 1] * 20, device=device)
    plain = Ranking(logits, labels, None, delta=1.0).negatives.times()
    for far, count in ((1e30, 1.0), (-1e30, 0.0)):
        more = torch.cat((logits - 1000, torch.tensor([[far]], dtype=torch.float64, device=device)))
        ranking = Ranking(more, torch.cat((labels, labels.new_ones(1))), None, delta=1.0)
        torch.testing.assert_close(ranking.negatives.times()[..., :20], plain[..., :20] + count, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_function_transforms(device: str) -> None:
    """The update is the gradient there, too, for each image of a batch."""
    logits, labels, iou = draw(3, 12, 2).to(device) * 4, torch.tensor([0, 1, 2] * 4, device=device).expand(3, -1), draw(3, 12).to(device)

    def total(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        ranking, sorting = rank_sort_loss(x, y, t)
        return (ranking + 2 * sorting).sum()

    x = logits.requires_grad_()
    (expected,) = torch.autograd.grad(total(x, labels, iou), x)
    torch.testing.assert_close(torch.func.grad(total)(logits.detach(), labels, iou), expected)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(total))(logits.detach(), labels, iou), expected)


def test_a_large_ranking_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soft_ranks, "SMALL", 0)
    arguments = draw(2, 12, 2), (draw(2, 12, seed=1) * 3).long(), draw(2, 12, seed=2)
    compiled = torch.compile(rank_sort_loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arguments), rank_sort_loss(*arguments), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n", [30, soft_ranks.SMALL_SORT])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_descending_sorts(device: str, dtype: torch.dtype, n: int) -> None:
    special = torch.tensor([[torch.inf, -torch.inf, 0.0, -0.0, 1e-40]] * 2, dtype=dtype)
    score = torch.cat(((draw(2, n) - 0.5).to(dtype), special), -1).to(device)
    ordered, order = descending(score)
    assert ordered.equal(score.sort(descending=True).values)
    assert score.gather(-1, order).equal(ordered)


@pytest.mark.parametrize("shape", [(9,), (1, 9), (3, 9), (3, 0), (0, 9)])
def test_packing_lists_what_is_true_once(device: str, shape: tuple[int, ...]) -> None:
    mask = draw(*shape).to(device) < 0.4
    index, found = pack(mask)
    listed = torch.zeros_like(mask).scatter(-1, index, torch.ones_like(index, dtype=torch.bool) if found is None else found)
    assert listed.equal(mask)
    assert torch.zeros(shape, device=device).scatter_add(-1, index, torch.ones(index.shape, device=device)).le(1).all()
