"""Matching without the matrix of all pairs gives what the matrix gives."""

import pytest
import torch
from torch import Tensor

from reference_impl.ops import matching
from reference_impl.ops.boxes import box_iou
from reference_impl.ops.matching import BACKGROUND, IGNORED, best_overlaps, match


def grid(device: str, dtype: torch.dtype = torch.float64) -> Tensor:
    """Square anchors of two sizes every eight pixels, so that small objects lie in several alike."""
    centre = torch.cartesian_prod(torch.arange(4, 64, 8), torch.arange(4, 64, 8))
    return torch.cat([torch.cat((centre - half, centre + half), -1) for half in (8, 14)]).to(device, dtype)


def objects(n: int, seed: int, device: str, dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    corner = torch.randint(48, (n, 2), generator=draw)
    return torch.cat((corner, corner + torch.randint(2, 24, (n, 2), generator=draw)), -1).to(device, dtype)


def matrix_match(anchors: Tensor, boxes: Tensor, positive: float, negative: float, keep_best: bool) -> Tensor:
    """The rule, from the whole matrix and in plain loops."""
    iou = box_iou(boxes[:, None], anchors[None])
    labels = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
    for i in range(len(anchors)):
        best, truth = iou[:, i].max(0)
        if best >= positive or (keep_best and ((iou[:, i] == iou.amax(1)) & (iou[:, i] > 0)).any()):
            labels[i] = truth
        elif best >= negative:
            labels[i] = IGNORED
    return labels


@pytest.mark.parametrize("at_once", [1, 300, 2**19])
def test_maxima_are_those_of_the_matrix(at_once: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "PAIRS_AT_ONCE", at_once)
    anchors, boxes = grid(device), objects(7, 0, device)
    iou = box_iou(boxes[:, None], anchors[None])
    found = best_overlaps(anchors, boxes)
    assert found.iou.equal(iou.amax(0))
    assert found.truth.equal(iou.argmax(0))
    assert found.truth_iou.equal(iou.amax(1))
    assert found.anchor.equal(iou.argmax(1))
    assert found.is_best.equal((iou == iou.amax(1, keepdim=True)).any(0))


@pytest.mark.parametrize("few", [1, 3, 8])
def test_ground_truths_that_lie_apart_meet_the_anchors_around_them_and_miss_nothing(
    few: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ground truths that coincide, and of anchors that one overlaps as much, the first counts, in whatever order they are taken."""
    anchors, boxes = grid(device), torch.cat([objects(14, seed, device) for seed in (0, 1, 0)])
    boxes[3] += 500
    boxes[5, 2:] = boxes[5, :2]
    expected = best_overlaps(anchors, boxes)
    monkeypatch.setattr(matching, "PAIRS_AT_ONCE", 1)
    monkeypatch.setattr(matching, "NEIGHBOURS", few)
    for a, b in zip(best_overlaps(anchors, boxes), expected, strict=True):
        assert a.equal(b)


@pytest.mark.parametrize("at_once", [1, 300, 2**19])
@pytest.mark.parametrize("keep_best", [True, False])
@pytest.mark.parametrize(("positive", "negative"), [(0.5, 0.4), (0.7, 0.3), (0.5, 0.5)])
def test_labels_are_those_of_the_rule(
    positive: float, negative: float, keep_best: bool, at_once: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "PAIRS_AT_ONCE", at_once)
    anchors = grid(device)
    for seed in range(5):
        boxes = objects(6, seed, device)
        labels = match(anchors, boxes, positive=positive, negative=negative, keep_best=keep_best)
        assert labels.equal(matrix_match(anchors, boxes, positive, negative, keep_best))


def test_every_object_that_overlaps_an_anchor_counts(device: str) -> None:
    """Each one's best anchors are foreground, even if for a neighbour."""
    anchors, boxes = grid(device), objects(8, 3, device)
    labels = match(anchors, boxes)
    assert (labels[best_overlaps(anchors, boxes).anchor] >= 0).all()


@pytest.mark.parametrize("at_once", [1, 300, 2**19])
def test_a_batch_is_a_loop_and_shares_its_anchors(at_once: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "PAIRS_AT_ONCE", at_once)
    anchors, boxes = grid(device), torch.stack([objects(6, seed, device) for seed in range(4)]).unflatten(0, (2, 2))
    valid = torch.rand(2, 2, 6, generator=torch.Generator().manual_seed(0)).to(device) < 0.7
    shared = match(anchors, boxes, valid)
    assert shared.equal(match(anchors.expand(2, 2, -1, -1), boxes, valid))
    for i in range(2):
        for j in range(2):
            assert shared[i, j].equal(match(anchors, boxes[i, j], valid[i, j]))


def test_padding_does_not_matter(device: str) -> None:
    anchors, boxes = grid(device), objects(5, 0, device)
    padding = torch.full((3, 4), torch.nan, dtype=torch.float64, device=device)
    padding[0] = anchors[5]
    valid = torch.tensor([True] * 5 + [False] * 3, device=device)
    plain, padded = best_overlaps(anchors, boxes), best_overlaps(anchors, torch.cat((boxes, padding)), valid)
    for a, b in zip(plain, padded, strict=True):
        assert a.equal(b[: len(a)])
    assert match(anchors, boxes).equal(match(anchors, torch.cat((boxes, padding)), valid))


def test_an_object_out_of_reach_claims_no_anchor(device: str) -> None:
    anchors = grid(device)
    far = torch.tensor([[500.0, 500.0, 520.0, 520.0], [10.0, 10.0, 10.0, 10.0]], dtype=torch.float64, device=device)
    assert (match(anchors, far) == BACKGROUND).all()


def test_nothing_to_match(device: str) -> None:
    anchors, boxes = grid(device), objects(5, 0, device)
    assert (match(anchors, boxes[:0]) == BACKGROUND).all()
    assert match(anchors[:0], boxes).shape == (0,)
    assert best_overlaps(anchors[:0], boxes).anchor.equal(torch.zeros(5, dtype=torch.int64, device=device))
    assert match(anchors, boxes.expand(0, 5, 4)).shape == (0, len(anchors))


def test_types(device: str) -> None:
    """Small integers are exact in half precision; no gradient flows."""
    anchors, boxes = grid(device), objects(6, 0, device)
    expected = match(anchors, boxes)
    for dtype in (torch.float32, torch.bfloat16):
        assert match(anchors.to(dtype), boxes.to(dtype)).equal(expected)
    assert match(anchors.float(), boxes).equal(expected)
    found = best_overlaps(anchors.requires_grad_(), boxes.requires_grad_())
    assert not found.iou.requires_grad
    assert found.truth.dtype is found.anchor.dtype is torch.int64


@pytest.mark.parametrize(("positive", "negative"), [(0.4, 0.5), (0.5, 0.0)])
def test_thresholds_that_make_no_sense_are_refused(positive: float, negative: float, device: str) -> None:
    with pytest.raises(ValueError, match="0 < negative <= positive"):
        match(grid(device), objects(2, 0, device), positive=positive, negative=negative)


def test_it_compiles(device: str) -> None:
    anchors, boxes = grid(device), objects(6, 0, device)
    compiled = torch.compile(match, fullgraph=True, backend="aot_eager")
    assert compiled(anchors, boxes).equal(match(anchors, boxes))
