"""Laws of soft non-maximum suppression."""

import math

import pytest
import torch
from torch import Tensor

from reference_impl.ops.boxes import box_iou
from reference_impl.ops.nms import nms
from reference_impl.ops.soft_nms import _by_rounds, linear_soft_nms, soft_nms


def boxes_in_a_window(*batch: int) -> tuple[Tensor, Tensor]:
    """Boxes with integer corners, so that many coincide or touch, and scores with ties."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.randint(0, 16, (*batch, 2), generator=generator)
    boxes = torch.cat((corner, corner + torch.randint(1, 10, (*batch, 2), generator=generator)), -1)
    return boxes.double(), torch.randint(1, 40, batch, generator=generator).double() / 40


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("limit", [1, 5, 60])
@pytest.mark.parametrize("table", [0, 2**24])
def test_it_is_the_loop(linear: bool, limit: int, table: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the similarities of all pairs at hand, and with those of each kept box in its turn."""
    monkeypatch.setattr("reference_impl.ops.soft_nms.TABLE", table)
    boxes, scores = boxes_in_a_window(60)
    group = torch.arange(60) % 3
    valid = torch.arange(60) % 5 > 0
    iou = box_iou(boxes[:, None], boxes[None]).tolist()
    left = {i: s for i, s in enumerate(scores.tolist()) if valid[i]}
    expected = [0.0] * 60
    for _ in range(limit):
        best = max(left, key=lambda i: (left[i], -i), default=0)
        if left.get(best, 0.0) < 0.05:
            break
        expected[best] = left.pop(best)
        for i in left:
            decay = (1 - iou[best][i] if iou[best][i] > 0.3 else 1) if linear else math.exp(-(iou[best][i] ** 2) / 0.5)
            left[i] *= decay if group[i] == group[best] else 1
    function = linear_soft_nms if linear else soft_nms
    found = function(*(x.to(device) for x in (boxes, scores, valid, group)), limit=limit, lowest_score=0.05)
    torch.testing.assert_close(found.cpu(), torch.tensor(expected, dtype=torch.float64))


def test_sigma_goes_from_hard_suppression_to_none(device: str) -> None:
    boxes, scores = (x.to(device) for x in boxes_in_a_window(50))
    torch.testing.assert_close(soft_nms(boxes, scores, limit=50, sigma=1e12), scores)
    assert (soft_nms(boxes, scores, limit=50, sigma=1e-9) > 0).equal(nms(boxes, scores, limit=50, threshold=0.0))


def test_a_batch_is_a_loop(device: str) -> None:
    boxes, scores = (x.to(device) for x in boxes_in_a_window(3, 40))
    together = soft_nms(boxes, scores, limit=9)
    for i in range(3):
        torch.testing.assert_close(together[i], soft_nms(boxes[i], scores[i], limit=9))


@pytest.mark.parametrize("table", [0, 2**24])
def test_the_rounds_of_a_device_keep_what_the_cpu_keeps(table: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reference_impl.ops.soft_nms.TABLE", table)
    boxes, scores = (x.to(device) for x in boxes_in_a_window(3, 40))
    scores[1, 5:] = 0

    def effects(index: Tensor) -> Tensor:
        iou = box_iou(boxes.gather(-2, index[..., None].expand(*index.shape, 4))[..., None, :], boxes[..., None, :, :])
        return (-iou.square() / 0.5).exp().scatter(-1, index[..., None], -1)

    for limit in (1, 9, 60):
        found = _by_rounds(scores, effects, 0.05, limit)
        torch.testing.assert_close(found, soft_nms(boxes, scores, limit=limit, lowest_score=0.05))


def test_compiled_it_gives_the_same(device: str) -> None:
    boxes, scores = (x.to(device) for x in boxes_in_a_window(2, 20))
    group = torch.arange(20, device=device).expand(2, 20) % 2
    compiled = torch.compile(soft_nms, fullgraph=True, backend="aot_eager")
    for limit in (3, 20):
        torch.testing.assert_close(compiled(boxes, scores, None, group, limit=limit), soft_nms(boxes, scores, None, group, limit=limit))


def test_a_score_that_is_the_lowest_is_kept(device: str) -> None:
    """In single precision 0.7 is less than in double."""
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=device)
    assert soft_nms(boxes, torch.tensor([0.7], device=device), limit=1, lowest_score=0.7).item() > 0


def test_scores_are_not_overwritten(device: str) -> None:
    boxes, scores = (x.to(device) for x in boxes_in_a_window(2, 20))
    soft_nms(boxes, scores, limit=20)
    assert scores._version == 0


def test_the_default_device_does_not_matter(device: str) -> None:
    boxes, scores = (x.to(device) for x in boxes_in_a_window(1, 40))
    expected = soft_nms(boxes, scores, limit=9)
    with torch.device("meta"):
        assert soft_nms(boxes, scores, limit=9).equal(expected)


def test_of_no_boxes_none_are_kept(device: str) -> None:
    assert soft_nms(torch.zeros(2, 0, 4, device=device), torch.zeros(2, 0, device=device), limit=5).shape == (2, 0)
    assert soft_nms(torch.zeros(0, 3, 4, device=device), torch.zeros(0, 3, device=device), limit=5).shape == (0, 3)
