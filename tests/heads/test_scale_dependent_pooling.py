"""Laws of scale-dependent pooling and of the cascade of rejection classifiers."""

import math

import pytest
import torch
from torch import Tensor

from reference_impl.heads import (
    CascadedRejection,
    ScaleDependentPooling,
    scale_branch,
    scale_dependent_detections,
    scale_dependent_loss,
)
from reference_impl.ops.boosting import boosted_score, boosted_stumps, rejection_threshold
from reference_impl.ops.boxes import decode_deltas, encode_deltas
from reference_impl.ops.nms import nms
from reference_impl.ops.roi_align import roi_align

STRIDES, SIDE = (4, 8, 16), 256


def levels(device: str, images: int = 2, channels: tuple[int, ...] = (2, 3, 4)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sides = [SIDE // stride for stride in STRIDES]
    return [
        torch.randn(images, c, side, side, generator=generator, dtype=torch.float64).to(device)
        for c, side in zip(channels, sides, strict=True)
    ]


def proposals(device: str, number: int = 60, images: int = 2) -> Tensor:
    """Of all heights up to 240, inside the image."""
    generator = torch.Generator().manual_seed(1)
    size = 16 + 224 * torch.rand(images, number, 2, generator=generator, dtype=torch.float64)
    corner = (SIDE - size) * torch.rand(images, number, 2, generator=generator, dtype=torch.float64)
    return torch.cat((corner, corner + size), -1).to(device)


def detector(device: str) -> ScaleDependentPooling:
    torch.manual_seed(0)
    return ScaleDependentPooling([2, 3, 4], STRIDES, 2, size=3, hidden=16, dropout=0.0).double().to(device)


def test_a_proposal_sees_its_own_layer_alone(device: str) -> None:
    module, given, boxes = detector(device), levels(device), proposals(device)
    branch = scale_branch(boxes)
    assert torch.bincount(branch.flatten()).min() > 10
    logits, offsets = module(given, boxes)
    for i in range(3):
        changed = module([x + (i == j) for j, x in enumerate(given)], boxes)
        assert (changed[0] != logits).any(-1).equal(branch == i)
        pooled = roi_align(given[i], boxes, scale=1 / STRIDES[i], size=3).flatten(2)
        own = module.branches[i](pooled)
        torch.testing.assert_close(logits[branch == i], own[0][branch == i])
        torch.testing.assert_close(offsets.flatten(2)[branch == i], own[1][branch == i])


def test_a_branch_learns_from_its_own_heights_alone(device: str) -> None:
    module, given, boxes = detector(device), levels(device), proposals(device)
    logits, offsets = module(given, boxes)
    labels = torch.zeros_like(boxes[..., 0], dtype=torch.long)
    of_the_middle = scale_branch(boxes) == 1
    loss = scale_dependent_loss(logits, offsets, labels, torch.zeros_like(boxes), of_the_middle)
    (loss[0].sum() + loss[1].sum()).backward()
    assert [any(p.grad.any() for p in branch.parameters()) for branch in module.branches] == [False, True, False]


def objects(device: str, given: list[Tensor], boxes: Tensor) -> Tensor:
    """Every sixth proposal, and its middle is brighter on all layers."""
    positive = torch.arange(boxes.shape[1], device=device).expand(boxes.shape[:2]) % 6 == 0
    for image, box in positive.nonzero().tolist():
        x1, y1, x2, y2 = boxes[image, box].tolist()
        for x, stride in zip(given, STRIDES, strict=True):
            x[image, 0, int(y1 / stride) : math.ceil(y2 / stride), int(x1 / stride) : math.ceil(x2 / stride)] += 1.5
    return positive


def cascade(device: str) -> CascadedRejection:
    """With so few weak classifiers that some background passes."""
    return CascadedRejection([2, 3, 4], STRIDES, size=2, k=4, recall=0.9).double().to(device)


def test_the_cascade_agrees_with_its_stages(device: str) -> None:
    """Each layer's classifier of each range sees what is left, and none sees a range that was pooled before."""
    given, boxes = levels(device), proposals(device, 120)
    positive = objects(device, given, boxes)
    valid = torch.arange(120, device=device).expand(2, -1) < 110
    module = cascade(device)
    left = module.fit(given, boxes, positive, valid)
    branch, alive = scale_branch(boxes), valid.clone()
    for level, x in enumerate(given):
        pooled = roi_align(x, boxes, scale=1 / STRIDES[level], size=2).flatten(2)
        for own in range(level, 3):
            used = alive & (branch == own)
            stumps = boosted_stumps(pooled[used], positive[used], k=4)
            score = boosted_score(pooled[used], *stumps)
            alive[used] = score >= rejection_threshold(score, positive[used], recall=0.9)
            assert (alive & ~positive)[used].any()
    assert left.equal(alive)
    assert module(given, boxes, valid).equal(left)


def test_the_cascade_throws_out_background(device: str) -> None:
    given, boxes = levels(device), proposals(device, 200)
    positive = objects(device, given, boxes)
    module = cascade(device)
    assert module(given, boxes).all(), "rejects before it is trained"
    left = module.fit(given, boxes, positive)
    assert left[positive].double().mean() >= 0.9**3
    assert left[~positive].double().mean() < 0.5


def test_the_cascade_is_kept_with_the_weights(device: str) -> None:
    given, boxes = levels(device), proposals(device)
    trained = cascade(device)
    left = trained.fit(given, boxes, objects(device, given, boxes))
    loaded = cascade(device)
    loaded.load_state_dict(trained.state_dict())
    assert loaded(given, boxes).equal(left)


def test_three_layers_are_wanted(device: str) -> None:
    with pytest.raises(ValueError, match="expected those of three layers"):
        ScaleDependentPooling([1, 2], [4, 8], 1)
    with pytest.raises(ValueError, match="expected those of three layers or more"):
        CascadedRejection([1, 2], [4, 8])
    with pytest.raises(ValueError, match=r"`levels` has 2 feature maps; expected 3"):
        detector(device)(levels(device)[:2], proposals(device))


def test_detections_agree_with_suppression_class_by_class(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = proposals(device, 40, 1)[0]
    logits = 2 * torch.randn(40, 3, generator=generator, dtype=torch.float64).to(device)
    offsets = 0.1 * torch.randn(40, 3, 4, generator=generator, dtype=torch.float64).to(device)
    alive = torch.rand(40, generator=generator).to(device) < 0.7
    scores, found, detected = scale_dependent_detections(logits, offsets, boxes, alive, limit=1000)
    torch.testing.assert_close(scores, logits.softmax(-1))
    for c in range(2):
        own = decode_deltas(offsets[:, c], boxes)
        torch.testing.assert_close(found[:, c], own)
        assert detected[:, c].equal(nms(own, scores[:, c], alive, limit=40, threshold=0.3))
    assert not detected[:, 2].any()


def test_it_learns(device: str) -> None:
    """To find the bright proposals and to move them, of all three ranges of heights."""
    given, boxes = levels(device), proposals(device)
    positive = objects(device, given, boxes)
    module = detector(device)
    labels = torch.where(positive, 1, 2)
    targets = encode_deltas(boxes + torch.tensor([4.0, 0.0, 4.0, 8.0], dtype=torch.float64, device=device), boxes)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        by_class, by_box = scale_dependent_loss(*module(given, boxes), labels, targets)
        loss = by_class.mean() + by_box.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 3
