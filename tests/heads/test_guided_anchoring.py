"""Laws of guided anchoring."""

import torch
from torch.nn.functional import conv2d

from reference_impl.heads import GuidedAnchoring, location_targets, shape_loss, shape_targets
from reference_impl.ops.boxes import box_iou
from reference_impl.ops.matching import match
from tools.anchoring import SCALE, squares, trained
from tools.scenes import STRIDE, jittered, painted


def test_training_leaves_few_anchors_of_the_right_shape(device: str) -> None:
    """All losses fall on scenes not seen; most places get no anchor, and every object one that fits it better than any square does."""
    features, boxes, _ = painted(4, seed=99, device=device)
    with torch.no_grad():
        before = trained(0, device).losses(features, boxes)
    detector = trained(50, device)
    with torch.no_grad():
        after = detector.losses(features, boxes)
        anchors, _, kept, _, _ = detector(features)
    overlap = box_iou(anchors[:, :, None], boxes[:, None]) * kept[..., None]
    plain = box_iou(squares(2 * STRIDE, device, scale=SCALE)[None, :, None], boxes[:, None])
    assert after[0] < 0.1 * before[0]
    assert after[1] < 0.95 * before[1]
    assert sum(after) < sum(before)
    assert kept.float().mean() < 0.2
    assert overlap.amax(1).mean() > plain.amax(1).mean()


def test_every_object_has_a_place_on_one_level(device: str) -> None:
    levels = [squares(stride, device) for stride in (4, 8, 16)]
    level = torch.cat([torch.full((len(x),), i, device=device) for i, x in enumerate(levels)])
    _, boxes, _ = painted(20, seed=0, device=device)
    for stretch in (0.1, 0.5, 1.0, 1.4):
        small = boxes[:, :1, :2] + 4
        one = torch.cat((small, small + stretch * (boxes[:, :1, 2:] - small)), -1)
        positive, negative = location_targets(torch.cat(levels), one)
        assert positive.any(-1).all()
        on = [positive[:, level == i].any(-1) for i in range(3)]
        assert (sum(x.int() for x in on) == 1).all()
        assert not (positive & negative).any()


def test_a_larger_object_is_looked_for_on_a_coarser_level(device: str) -> None:
    """Level k takes sizes from 32 (2^(k - 1/2)) to 32 (2^(k + 1/2)); beyond the last, the last."""
    levels = [squares(stride, device, torch.float64) for stride in (4, 8, 16)]
    level = torch.cat([torch.full((len(x),), i, device=device) for i, x in enumerate(levels)])
    size = torch.tensor([3.0, 44.0, 46.0, 89.0, 92.0, 127.0], dtype=torch.float64, device=device)
    boxes = torch.stack((64 - size / 2, 64 - size / 2, 64 + size / 2, 64 + size / 2), -1)[:, None]
    positive, _ = location_targets(torch.cat(levels), boxes)
    assert [level[row].unique().tolist() for row in positive] == [[0], [0], [1], [1], [2], [2]]


def test_targets_do_not_depend_on_the_order_of_the_objects(device: str) -> None:
    _, boxes, _ = painted(4, seed=1, device=device)
    places, boxes = squares(8, device), torch.cat((boxes, jittered(boxes, each=2, seed=1)), 1)
    for a, b in zip(location_targets(places, boxes), location_targets(places, boxes.flip(1)), strict=True):
        assert a.equal(b)


def test_padding_makes_no_difference(device: str) -> None:
    _, boxes, _ = painted(4, seed=0, device=device)
    padded, valid = torch.cat((boxes, boxes + 7, 0 * boxes), 1), torch.arange(6, device=device) < 2
    places = squares(STRIDE, device)
    for a, b in zip(location_targets(places, padded, valid.expand(4, 6)), location_targets(places, boxes), strict=True):
        assert a.equal(b)
    assert shape_targets(places, padded, valid.expand(4, 6)).equal(shape_targets(places, boxes))


def test_the_overlap_of_all_shapes_is_at_least_that_of_the_square(device: str) -> None:
    """A place whose square overlaps an object enough is assigned; and by the nine shapes, some are whose square does not."""
    _, boxes, _ = painted(8, seed=0, device=device)
    places = squares(STRIDE, device)
    by_square = match(places, boxes, positive=0.7, negative=0.3, keep_best=False) >= 0
    by_shape = shape_targets(places, boxes) >= 0
    assert (by_shape | ~by_square).all()
    assert (by_shape & ~by_square).any()


def test_shape_loss_knows_no_place_and_no_scale(device: str) -> None:
    _, boxes, _ = painted(4, seed=0, device=device, dtype=torch.float64)
    other = jittered(boxes, each=1, seed=0)
    loss = shape_loss(other, boxes)
    torch.testing.assert_close(shape_loss(other + 30, boxes), loss)
    torch.testing.assert_close(shape_loss(3 * other, 3 * boxes), loss)
    torch.testing.assert_close(shape_loss(boxes, other), loss)
    assert (shape_loss(boxes + 5, boxes) < 1e-20).all()


def test_without_offsets_the_features_are_convolved(device: str) -> None:
    torch.manual_seed(0)
    head = GuidedAnchoring(8, width=8).double().to(device)
    features, _, _ = painted(2, seed=0, device=device, dtype=torch.float64)
    features = features.repeat(1, 4, 1, 1)
    with torch.no_grad():
        head.offsets.weight.zero_()
        head.adapt.normal_()
        _, _, logits, _ = head(features)
        plain = head.classify(conv2d(features, head.adapt, padding=1).relu())
    torch.testing.assert_close(logits.flatten(), plain.flatten())


def test_the_detector_does_not_teach_the_shape(device: str) -> None:
    torch.manual_seed(0)
    head = GuidedAnchoring(8, width=8).to(device)
    features, _, _ = painted(2, seed=0, device=device)
    centers, shape, logits, deltas = head(features.repeat(1, 4, 1, 1))
    moved = torch.autograd.grad(logits.sum() + deltas.sum(), [*head.parameters()], allow_unused=True, retain_graph=True)
    by_name = dict(zip((name for name, _ in head.named_parameters()), moved, strict=True))
    assert {name for name, g in by_name.items() if g is None} == {"location.weight", "location.bias", "shape.weight", "shape.bias"}
    assert by_name["offsets.weight"].any()
    assert all(
        g is not None for g in torch.autograd.grad(centers.sum() + shape.sum(), [*head.location.parameters(), *head.shape.parameters()])
    )
