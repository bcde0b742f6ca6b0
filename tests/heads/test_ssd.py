"""Laws of SSD's heads and default boxes."""

from itertools import pairwise, product

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, smooth_l1_loss

from reference_impl.heads import SSD, decode_offsets, encode_offsets, ssd_detections, ssd_targets
from reference_impl.ops.boxes import box_area, box_iou
from reference_impl.ops.matching import best_overlaps
from reference_impl.sampling import hard_negative_mining
from tools.data import coco
from tools.scenes import CLASSES, SIDE, painted

RATIOS = [[2.0], [2.0, 3.0], [2.0, 3.0], [2.0, 3.0], [2.0], [2.0]]
STRIDES = [8.0, 16.0, 32.0, 64.0, 100.0, 300.0]
GRIDS = [38, 19, 10, 5, 3, 1]


def maps(device: str, grids: list[int], channels: list[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, g, g, generator=generator, dtype=torch.float64).to(device) for g, c in zip(grids, channels, strict=True)]


def ssd300(device: str, *, clip: bool = False) -> Tensor:
    """The default boxes of SSD300, with strides as the authors have them."""
    head = SSD([1] * 6, RATIOS, 1, STRIDES, clip=clip).double().to(device)
    boxes: Tensor = head([torch.zeros(1, 1, g, g, dtype=torch.float64, device=device) for g in GRIDS], 300, 300)[2]
    return boxes


def test_ssd300_has_8732_default_boxes(device: str) -> None:
    """38 x 38 x 4 + 19 x 19 x 6 + 10 x 10 x 6 + 5 x 5 x 6 + 3 x 3 x 4 + 1 x 1 x 4."""
    assert ssd300(device).shape == (8732, 4)


def test_default_boxes_agree_with_a_loop(device: str) -> None:
    scales, found = [30, 60, 111, 162, 213, 264, 315], []
    for k, (grid, stride) in enumerate(zip(GRIDS, STRIDES, strict=True)):
        for y in range(grid):
            for x in range(grid):
                root = (scales[k] * scales[k + 1]) ** 0.5
                sizes = [(float(scales[k]),) * 2, (root, root)]
                for ratio in RATIOS[k]:
                    sizes += [(scales[k] * r**0.5, scales[k] / r**0.5) for r in (ratio, 1 / ratio)]
                for w, h in sizes:
                    cx, cy = (x + 0.5) * stride, (y + 0.5) * stride
                    found.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    torch.testing.assert_close(ssd300(device), torch.tensor(found, dtype=torch.float64, device=device), rtol=1e-6, atol=1e-4)


def test_clipping_moves_corners_to_the_border(device: str) -> None:
    assert ssd300(device, clip=True).equal(ssd300(device).clamp(0, 300))


def test_a_level_looks_at_itself_alone(device: str) -> None:
    head = SSD([4, 3, 2], [[], [2.0], []], 5).double().to(device)
    levels = maps(device, [4, 2, 1], [4, 3, 2])
    place = torch.repeat_interleave(torch.arange(3), torch.tensor([32, 16, 2])).to(device)
    before = head(levels, 64, 64)
    for i in range(3):
        after = head([x + torch.randn_like(x) if i == j else x for j, x in enumerate(levels)], 64, 64)
        for x, y in zip(before[:2], after[:2], strict=True):
            assert (x != y).any(-1).equal((place == i).expand(2, -1))
        assert after[2].equal(before[2])


def test_the_size_of_the_finest_features_does_not_matter(device: str) -> None:
    head = SSD([4, 3, 2], [[], [], []], 5).double().to(device)
    fine, *rest = maps(device, [4, 2, 1], [4, 3, 2])
    for x, y in zip(head([fine, *rest], 64, 64), head([7 * fine, *rest], 64, 64), strict=True):
        torch.testing.assert_close(x, y)
    assert not head([fine, *rest], 64, 64)[0].equal(head([fine, *(7 * x for x in rest)], 64, 64)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_location_without_features_is_finite_in_half_precision(dtype: torch.dtype, device: str) -> None:
    head = SSD([4, 3, 2], [[], [], []], 5).to(device, dtype)
    logits, offsets, _ = head([torch.zeros(1, c, n, n, dtype=dtype, device=device) for c, n in ((4, 4), (3, 2), (2, 1))], 16, 16)
    assert logits.isfinite().all()
    assert offsets.isfinite().all()


def test_decoding_undoes_encoding(device: str) -> None:
    anchors = ssd300(device)[::97]
    boxes = anchors + torch.rand(anchors.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(device) * 9
    torch.testing.assert_close(decode_offsets(encode_offsets(boxes, anchors), anchors), boxes)


def test_levels_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match="`ratios` has 2 levels; expected at least 3"):
        SSD([1, 1], [[2.0], [2.0]], 1)
    with pytest.raises(ValueError, match="`channels` has 2 levels; expected 3"):
        SSD([1, 1], [[2.0], [2.0], [2.0]], 1)
    with pytest.raises(ValueError, match="`strides` has 2 levels; expected 3"):
        SSD([1, 1, 1], [[2.0], [2.0], [2.0]], 1, [8, 16])


def test_coarser_levels_answer_for_larger_objects(device: str) -> None:
    """The objects of real images, by the level whose default box overlaps them most: each level has larger ones than the level before."""
    data = coco()
    boxes = (data.boxes / data.size.repeat(1, 2)[:, None] * 300)[:24].to(device)
    found = best_overlaps(ssd300(device), boxes, data.valid[:24].to(device))
    start = torch.tensor([0, 5776, 7942, 8542, 8692, 8728], device=device)
    level = torch.searchsorted(start, found.anchor, right=True) - 1
    size, real = box_area(boxes).sqrt(), found.truth_iou > 0
    mean = [float(size[real & (level == i)].mean()) for i in range(5)]
    assert all(a < b for a, b in pairwise(mean)), mean


def greedy(overlap: Tensor) -> list[int]:
    """The rule in plain loops: the best pair that is left, the first of equal ones, until none overlaps."""
    truths, owner = set(range(len(overlap))), [-1] * overlap.shape[1]
    while pairs := [
        (-float(overlap[j, i]), i, j) for i, j in product(range(len(owner)), sorted(truths)) if owner[i] < 0 and overlap[j, i] > 0
    ]:
        _, i, j = min(pairs)
        owner[i] = j
        truths.remove(j)
    return owner


def test_the_best_pair_comes_first(device: str) -> None:
    """Boxes on a coarse raster coincide and tie, and many want the same default box; some are padding, and one image has no object."""
    draw = torch.Generator().manual_seed(0)
    for _ in range(30):
        corner = torch.randint(3, (4, 14, 2), generator=draw).double()
        several = torch.cat((corner, corner + torch.randint(1, 4, corner.shape, generator=draw)), -1).to(device)
        anchors, boxes = several[0, :8], several[:, 8:]
        valid = torch.rand(4, 6, generator=draw).to(device) < torch.tensor([1.0, 0.7, 0.4, 0.0], device=device)[:, None]
        overlap = box_iou(anchors, boxes[:, :, None]).where(valid[..., None], 0)
        label, _ = ssd_targets(anchors, boxes, torch.arange(6, device=device).expand(4, 6), valid, classes=6)
        for k in range(4):
            for i, own in enumerate(greedy(overlap[k])):
                best = float(overlap[k, :, i].amax())
                assert label[k, i] == (own if own >= 0 else overlap[k, :, i].argmax() if best >= 0.5 else 6)


def test_objects_that_want_the_same_default_box_all_have_one(device: str) -> None:
    anchors = ssd300(device)
    for crowd in (2, 12):
        boxes = torch.tensor([100.0, 100.0, 104.0, 104.0], dtype=torch.float64, device=device).repeat(crowd, 1)
        label, _ = ssd_targets(anchors, boxes, torch.arange(crowd, device=device), classes=crowd)
        assert label[label < crowd].sort().values.tolist() == list(range(crowd))


def test_what_is_learned_leads_back_to_the_ground_truth(device: str) -> None:
    anchors, (_, boxes, labels) = ssd300(device), painted(3, seed=0, device=device, dtype=torch.float64)
    label, target = ssd_targets(anchors, boxes, labels, classes=CLASSES)
    decoded = decode_offsets(target, anchors.expand_as(target))
    own = (decoded[:, :, None] - boxes[:, None]).abs().amax(-1) < 1e-6
    assert own.any(-1).equal(label < CLASSES)
    assert (own & (labels[:, None] == label[..., None])).any(-1).equal(label < CLASSES)


def test_each_image_has_its_own_negatives_and_the_batch_one_divisor(device: str) -> None:
    """The second image has no object: nothing of it counts. Without any object there is nothing to learn, and nothing breaks."""
    torch.manual_seed(0)
    head = SSD([4, 3, 2], [[], [2.0], []], CLASSES).double().to(device)
    found = head(maps(device, [8, 4, 2], [4, 3, 2]), 128, 128)
    _, boxes, labels = painted(2, seed=0, device=device, dtype=torch.float64)
    valid = torch.tensor([[True, True], [False, False]], device=device)
    logits, offsets, anchors = found
    label, target = ssd_targets(anchors, boxes, labels, valid, classes=CLASSES)
    positive = label < CLASSES
    assert positive.sum(1).tolist()[1] == 0 < positive.sum()
    by_class = cross_entropy(logits.transpose(1, 2), label, reduction="none")
    weight = hard_negative_mining(by_class, positive, ~positive)
    assert weight.sum(1).tolist() == [4 * int(positive.sum()), 0]
    by_box = smooth_l1_loss(offsets, target, reduction="none").sum(-1)
    class_loss, box_loss = head.loss(found, boxes, labels, valid)
    torch.testing.assert_close(class_loss, (by_class * weight).sum() / positive.sum())
    torch.testing.assert_close(box_loss, (by_box * positive).sum() / positive.sum())
    for nothing in (head.loss(found, boxes, labels, valid & False), head.loss(found, boxes[:, :0], labels[:, :0])):
        assert [float(x.detach()) for x in nothing] == [0, 0]
        gradient = torch.autograd.grad(sum(nothing), logits, retain_graph=True)[0]
        assert not gradient.any()


def test_training_finds_the_objects_of_other_scenes(device: str) -> None:
    torch.manual_seed(0)
    backbone = nn.ModuleList(nn.Conv2d(c, 16, 3, stride=2, padding=1) for c in (CLASSES, 16, 16)).to(device)
    head = SSD([16, 16, 16], [[2.0], [2.0], [2.0]], CLASSES, finest=0.15, smallest=0.25, largest=0.5).to(device)

    def predicted(images: int, *, seed: int) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
        x, boxes, labels = painted(images, seed=seed, device=device)
        levels = []
        for layer in backbone:
            x = layer(x).relu()
            levels.append(x)
        return head(levels, SIDE, SIDE), boxes, labels

    with torch.no_grad():
        before = sum(head.loss(*predicted(16, seed=99)))
    optimiser = torch.optim.Adam([*backbone.parameters(), *head.parameters()], lr=5e-3)
    for step in range(100):
        optimiser.zero_grad()
        sum(head.loss(*predicted(8, seed=step % 6))).backward()
        optimiser.step()
    with torch.no_grad():
        found, boxes, labels = predicted(16, seed=99)
        after = sum(head.loss(found, boxes, labels))
        scores, placed, kept = ssd_detections(*found)
    assert after < before / 10
    is_own = torch.arange(CLASSES + 1, device=device) == labels[..., None, None]
    right = is_own & (kept & (scores > 0.5))[:, None] & (box_iou(placed[:, None], boxes[:, :, None]) > 0.5)[..., None]
    assert right.any(-1).any(-1).double().mean() > 0.8
