"""Laws of MS-CNN's branches, their objects, their samples and losses, and of the detection sub-network."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, smooth_l1_loss

from reference_impl.heads import (
    MSCNN,
    ContextDetector,
    FeatureUpsampling,
    assign_to_branches,
    branch_loss,
    context_boxes,
    decode_proposals,
    sample_negatives,
)
from reference_impl.ops.boxes import box_area, box_iou, encode_deltas
from reference_impl.ops.roi_align import roi_align
from tests.sampling.uniformity import BOUND, CANDIDATES, DRAWN, DRAWS, statistic

SIDES = [60, 84, 120, 168, 240, 336, 480]


def cars(device: str, channels: int = 2, classes: int = 1) -> MSCNN:
    """The sub-network of the authors' car detector, with few channels."""
    kernels = [[[5, 5], [7, 7]], [[5, 5], [7, 7]], [[5, 5], [7, 7]], [[5, 5]]]
    anchors = [[[SIDES[2 * i + j]] * 2 for j in range(2 if i < 3 else 1)] for i in range(4)]
    torch.manual_seed(0)
    return MSCNN([channels] * 4, kernels, anchors, [8, 16, 32, 64], classes).double().to(device)


def levels(device: str, channels: int = 2, width: int = 768, height: int = 576) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(height // stride, width // stride) for stride in (8, 16, 32, 64)]
    return [torch.randn(1, channels, *size, generator=generator, dtype=torch.float64).to(device) for size in sizes]


def test_a_branch_predicts_with_its_own_filter(device: str) -> None:
    """The first channels are the logits, and locations go row by row."""
    network, x = cars(device), levels(device)
    logits, offsets, anchors, branch = network(x)
    layer = network.branches[1][1]
    maps = conv2d(x[1], layer.weight, layer.bias, padding=3)[0]
    rows = torch.stack([maps[:, r, c] for r in range(36) for c in range(48)])
    torch.testing.assert_close(torch.cat((logits[0], offsets[0]), -1)[branch == 3], rows)
    assert anchors[branch == 3][49].tolist() == [24 - 84, 24 - 84, 24 + 84, 24 + 84]
    assert torch.bincount(branch).tolist() == [6912, 6912, 1728, 1728, 432, 432, 108]


def test_branches_do_not_meet(device: str) -> None:
    network, x = cars(device), levels(device)
    logits, _, _, branch = network(x)
    for i in range(4):
        changed = (network([y + 1 if i == j else y for j, y in enumerate(x)])[0] != logits).any(-1)[0]
        assert changed.equal(branch // 2 == i)


def test_each_branch_gets_objects_of_its_own_size(device: str) -> None:
    """Above an IoU of 1/2 the area of the object is within a factor 2 of the anchor's; larger ones go to later branches."""
    generator = torch.Generator().manual_seed(0)
    side = 40 * 2 ** (4 * torch.rand(200, 1, generator=generator, dtype=torch.float64))
    center = side / 2 + (torch.tensor([768.0, 576.0]) - side).clamp(min=0) * torch.rand(200, 2, generator=generator, dtype=torch.float64)
    boxes = torch.cat((center - side / 2, center + side / 2), -1).to(device)
    _, _, anchors, branch = cars(device)(levels(device))
    labels = assign_to_branches(anchors, boxes)
    found = labels >= 0
    assert found.any(-1).all()
    ratio = box_area(boxes)[labels[found]] / box_area(anchors)[found]
    sure = box_iou(boxes[labels[found]], anchors[found]) > 0.5
    assert ((ratio > 0.5) & (ratio < 2))[sure].all()
    mean = [float(side.flatten().to(device)[labels[found & (branch == m)]].mean()) for m in range(7)]
    assert sorted(mean) == mean
    assert len(set(labels[found].tolist())) > 180


def test_assignment_agrees_with_a_loop(device: str) -> None:
    generator = torch.Generator().manual_seed(1)
    corner = 40 * torch.rand(60, 2, generator=generator, dtype=torch.float64)
    anchors = torch.cat((corner, corner + 4 + 20 * torch.rand(60, 2, generator=generator, dtype=torch.float64)), -1)
    boxes = anchors[:15] + 6 * torch.rand(15, 4, generator=generator, dtype=torch.float64)
    iou = box_iou(anchors[:, None], boxes)
    expected = []
    for row in iou:
        best = int(row.argmax())
        expected.append(best if row[best] > 0.5 else -1 if row[best] < 0.2 else -2)
    rescued = 0
    for j in range(15):
        best = int(iou[:, j].argmax())
        if j not in expected[:] and iou[best, j] >= 0.2 and expected[best] < 0:
            expected[best] = j
            rescued += 1
    assert rescued >= 2
    assert assign_to_branches(anchors.to(device), boxes.to(device)).tolist() == expected


def test_random_negatives_are_drawn_uniformly(device: str) -> None:
    place = torch.arange(CANDIDATES + 2, device=device).expand(DRAWS, -1)
    positive, negative = place == 0, (place > 0) & (place <= CANDIDATES)
    noise = torch.rand(DRAWS, CANDIDATES + 2, generator=torch.Generator().manual_seed(0)).to(device)
    logits = torch.zeros(DRAWS, CANDIDATES + 2, 1, device=device)
    chosen = sample_negatives(logits, 0 * place, positive, negative, noise, hard_fraction=0.0, minimum=0)
    assert chosen[:, [0, -1]].eq(0).all()
    assert DRAWN == 2
    assert statistic(chosen[:, 1:-1]) < BOUND


def test_bootstrapping_agrees_with_a_loop(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(80, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (80,), generator=generator)
    positive = torch.rand(80, generator=generator) < 0.2
    negative = ~positive & (torch.rand(80, generator=generator) < 0.8)
    expected = set()
    for c in range(3):
        candidates = sorted((i for i in range(80) if negative[i]), key=lambda i: -float(logits[i, c]))
        expected |= set(candidates[: max(4, 2 * int((positive & (labels == c)).sum()))])
    arguments = [x.to(device) for x in (logits, labels, positive, negative)]
    chosen = sample_negatives(*arguments)
    assert set(chosen.nonzero().flatten().tolist()) == expected
    half = sample_negatives(*arguments, hard_fraction=0.5)
    assert ((half > 0) & (chosen > 0)).sum() >= 4
    assert ((half > 0) & (chosen == 0)).any()


@pytest.mark.parametrize("positives", [1, 3, 17])
def test_positives_have_a_third_of_the_weight(device: str, positives: int) -> None:
    positive = torch.arange(60, device=device) < positives
    logits = torch.zeros(60, 2, dtype=torch.float64, device=device)
    nothing = torch.zeros(60, 4, dtype=torch.float64, device=device)
    by_class, _ = branch_loss(logits, nothing, nothing, 0 * positive.long(), positive, ~positive)
    share = by_class / torch.tensor(2.0, dtype=torch.float64).log()
    torch.testing.assert_close(share[:positives].sum().cpu(), torch.tensor(1 / 3, dtype=torch.float64))
    torch.testing.assert_close(share.sum().cpu(), torch.tensor(1.0, dtype=torch.float64))


def test_a_proposal_stays_near_its_anchor(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    anchors = torch.tensor([[10.0, 20.0, 70.0, 80.0]], dtype=torch.float64, device=device).expand(500, 4)
    offsets = 5 * torch.randn(500, 4, generator=generator, dtype=torch.float64).to(device)
    boxes, _ = decode_proposals(torch.zeros(500, 2, dtype=torch.float64, device=device), offsets, anchors)
    size, shift = boxes[:, 2:] - boxes[:, :2], (boxes[:, :2] + boxes[:, 2:]) / 2 - torch.tensor([40.0, 50.0], device=device)
    assert ((size > 29.99) & (size < 120.01)).all()
    assert (shift.abs() < 30.01).all()


def test_upsampling_is_bilinear_inside(device: str) -> None:
    x = levels(device)[3]
    up = FeatureUpsampling().double().to(device)(x)
    torch.testing.assert_close(up[..., 1:-1, 1:-1], interpolate(x, scale_factor=2, mode="bilinear")[..., 1:-1, 1:-1])


def test_the_proposal_network_learns(device: str) -> None:
    """An image with a small and a large object, brighter than the rest; negatives at random, as in the authors' first training."""
    torch.manual_seed(0)
    network, x = cars(device, channels=4), [y / 4 for y in levels(device, channels=4, width=384, height=320)]
    boxes = torch.tensor([[20.0, 20.0, 90.0, 80.0], [120.0, 40.0, 370.0, 300.0]], dtype=torch.float64, device=device)
    for y, stride in zip(x, (8, 16, 32, 64), strict=True):
        for x1, y1, x2, y2 in (boxes / stride).round().int().tolist():
            y[..., y1:y2, x1:x2] += 1
    _, _, anchors, branch = network(x)
    truth = assign_to_branches(anchors, boxes)
    target = encode_deltas(boxes[truth.clamp(min=0)], anchors)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        logits, offsets, _, _ = network(x)
        total = torch.zeros((), dtype=torch.float64, device=device)
        for m in range(7):
            own, labels = branch == m, torch.zeros_like(truth)
            positive, negative = own & (truth >= 0), own & (truth == -1)
            sampled = sample_negatives(logits[0, :, :-1], labels, positive, negative, hard_fraction=0.0) > 0
            parts = branch_loss(logits[0], offsets[0], target, labels, positive, sampled, branch_weight=0.9 if m < 2 else 1.0)
            total = total + parts[0].sum() + parts[1].sum()
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        losses.append(float(total.detach()))
    assert sum(losses[-5:]) < sum(losses[:5]) / 2


def test_the_detector_learns_from_object_and_context(device: str) -> None:
    """The class shows in the surroundings alone; without them there would be nothing to learn."""
    torch.manual_seed(0)
    features = torch.zeros(1, 2, 24, 24, device=device)
    features[..., :12] = 1
    boxes = torch.tensor([[[28.0, 20.0, 44.0, 36.0], [62.0, 20.0, 78.0, 36.0]]], device=device)
    map2x = FeatureUpsampling().to(device)(features)

    pooled, context = (roi_align(map2x, b, scale=0.5) for b in (boxes, context_boxes(boxes, factor=3.0)))
    detector = ContextDetector(2, 1, width=8, hidden=16, dropout=0.0).to(device)
    optimiser = torch.optim.Adam(detector.parameters(), lr=0.01)
    losses = []
    for _ in range(100):
        logits, offsets = detector(pooled, context)
        by_class = torch.nn.functional.cross_entropy(logits[0], torch.tensor([0, 1], device=device))
        loss = by_class + smooth_l1_loss(offsets[:, 0, 0], torch.tensor([[0.5, -0.5, 0.0, 0.25]], device=device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 3
