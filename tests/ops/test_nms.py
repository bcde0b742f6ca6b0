"""Laws of non-maximum suppression."""

from itertools import product

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from reference_impl.ops.boxes import box_giou, box_iou
from reference_impl.ops.nms import _by_rounds, nms, nms_per_class
from reference_impl.ops.ranks import descending_rank


def boxes_in_a_window(*batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes with integer corners, so that many coincide, touch or have no area, and scores with ties."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 16, (*batch, 2), generator=generator)
    boxes = torch.cat((corner, corner + torch.randint(0, 10, (*batch, 2), generator=generator)), -1)
    return boxes.double(), torch.randint(0, 40, batch, generator=generator).double()


def one_after_the_other(boxes: Tensor, scores: Tensor, valid: Tensor, group: Tensor, threshold: float) -> list[int]:
    """The definition: go through the boxes by score, and keep what no kept box of its group is too similar to. In order."""
    iou = box_iou(boxes[:, None], boxes[None]).tolist()
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        if valid[i] and all(iou[i][j] <= threshold or group[i] != group[j] for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("n", [1, 2, 30, 120])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("block", [7, 256])
def test_it_is_the_definition(n: int, threshold: float, block: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one block and in several."""
    monkeypatch.setattr("reference_impl.ops.nms.BLOCK", block)
    boxes, scores = boxes_in_a_window(n, seed=n)
    valid = torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.8
    group = torch.arange(n) % 3
    kept = one_after_the_other(boxes, scores, valid, group, threshold)
    for limit in (1, 5, n):
        found = nms(*(x.to(device) for x in (boxes, scores, valid, group)), limit=limit, threshold=threshold)
        assert found.nonzero().squeeze(-1).tolist() == sorted(kept[:limit])


def test_no_two_kept_boxes_are_similar_and_each_discarded_one_is_similar_to_a_better_kept_one(device: str) -> None:
    boxes, scores = (x.to(device) for x in boxes_in_a_window(80))
    scores = scores + torch.arange(80, device=device) / 128
    kept = nms(boxes, scores, limit=80, threshold=0.4)
    similar = box_iou(boxes[:, None], boxes[None]) > 0.4
    better = scores[None] > scores[:, None]
    assert not (similar & kept[:, None] & kept[None]).fill_diagonal_(False).any()
    assert (similar & better & kept[None]).any(-1).equal(~kept)


def test_a_threshold_that_nothing_exceeds_keeps_the_best(device: str) -> None:
    boxes, scores = (x.to(device) for x in boxes_in_a_window(50))
    scores = scores + torch.arange(50, device=device) / 128
    kept = nms(boxes, scores, limit=7, threshold=1.0)
    assert kept.sum() == 7
    assert scores[kept].min() > scores[~kept].max()


def test_groups_are_suppressed_as_if_alone_wherever_they_lie(device: str) -> None:
    """Shifting each class away from the others, as is often done, must not be needed; coordinates may be negative."""
    boxes, scores = (x.to(device) for x in boxes_in_a_window(60))
    boxes = boxes - 12
    group = torch.arange(60, device=device) % 4
    together = nms(boxes, scores, None, group, limit=60)
    alone = torch.stack([nms(boxes, scores, group == g, limit=60) for g in range(4)]).any(0)
    assert together.equal(alone)


def test_a_score_that_is_no_number_makes_nothing_valid(device: str) -> None:
    """Such a box goes last; the rounds of a device and the blocks of a CPU agree."""
    boxes = torch.arange(6, device=device)[:, None] * 10 + torch.tensor([0.0, 0.0, 5.0, 5.0], device=device)
    scores = torch.tensor([0.1, torch.nan, 0.3, -torch.nan, 0.5, 0.6], device=device)
    valid = torch.tensor([False, True, True, True, False, True], device=device)
    assert nms(boxes, scores, valid, limit=6).equal(valid)
    assert nms(boxes, scores, valid, limit=2).nonzero().squeeze(-1).tolist() == [2, 5]


def test_any_similarity_will_do(device: str) -> None:
    """Generalized IoU of boxes apart is negative, and there are thresholds for that."""
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [3.0, 0.0, 5.0, 2.0], [10.0, 0.0, 12.0, 2.0]], device=device)
    scores = torch.tensor([3.0, 2.0, 1.0], device=device)
    kept = nms(boxes, scores, limit=3, threshold=-0.5, similarity=box_giou)  # GIoU with the first: -1/5 and -2/3.
    assert kept.tolist() == [True, False, True]


@pytest.mark.parametrize("block", [7, 256])
def test_a_batch_is_a_loop(block: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reference_impl.ops.nms.BLOCK", block)
    boxes, scores = (x.to(device) for x in boxes_in_a_window(2, 3, 40))
    together = nms(boxes, scores, limit=9)
    for i, j in product(range(2), range(3)):
        assert together[i, j].equal(nms(boxes[i, j], scores[i, j], limit=9))


def test_the_rounds_of_a_device_keep_what_the_blocks_keep(device: str) -> None:
    boxes, scores = (x.to(device) for x in boxes_in_a_window(3, 60))
    valid, group = scores > 2, torch.arange(60, device=device).expand(3, 60) % 3

    def discards(box: Tensor, its_group: Tensor, other: Tensor, other_group: Tensor) -> Tensor:
        return (box_iou(box, other) > 0.5) & (its_group == other_group)

    for limit in (1, 9, 60):
        found = _by_rounds(boxes, valid, group, descending_rank(scores), limit, discards)
        assert found.equal(nms(boxes, scores, valid, group, limit=limit))


def test_of_no_boxes_none_are_kept(device: str) -> None:
    assert nms(torch.zeros(2, 0, 4, device=device), torch.zeros(2, 0, device=device), limit=5).shape == (2, 0)
    assert nms(torch.zeros(0, 3, 4, device=device), torch.zeros(0, 3, device=device), limit=5).shape == (0, 3)
    nothing = torch.zeros(3, dtype=torch.bool, device=device)
    assert not nms(torch.zeros(3, 4, device=device), torch.ones(3, device=device), nothing, limit=5).any()


def test_compiled_it_gives_the_same_in_one_graph_for_all_sizes(device: str) -> None:
    counter = CompileCounter()
    compiled = torch.compile(nms, fullgraph=True, backend=counter)
    for n in (9, 30, 70, 4):
        boxes, scores = (x.to(device) for x in boxes_in_a_window(2, n))
        assert compiled(boxes, scores, limit=10).equal(nms(boxes, scores, limit=10))
    assert counter.frame_count <= 2


def test_class_by_class_is_a_loop(device: str) -> None:
    """Boxes of low score and without area are out, and the limit is for all classes together."""
    boxes, scores = (x.to(device) for x in boxes_in_a_window(2, 40))
    scores = torch.stack((scores, scores.flip(-1), (scores * 7) % 1), -1)
    boxes[:, 3, 2:] = boxes[:, 3, :2]
    kept = nms_per_class(scores, boxes, lowest_score=0.3, threshold=0.4, limit=1000)
    usable = (scores >= 0.3) & ((boxes[..., 2:] > boxes[..., :2]).all(-1, keepdim=True))
    for c in range(3):
        assert kept[..., c].equal(nms(boxes, scores[..., c], usable[..., c], limit=1000, threshold=0.4))
    few = nms_per_class(scores, boxes, lowest_score=0.3, threshold=0.4, limit=5)
    assert few.sum((1, 2)).tolist() == [5, 5]
    assert (kept | ~few).all()
    assert scores[few].min() >= scores.masked_fill(~kept, -1).flatten(1).sort(descending=True).values[:, 4].min()
