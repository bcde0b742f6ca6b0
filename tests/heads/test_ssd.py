"""Laws of SSD's heads and default boxes."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss

from reference_impl.heads import SSD, decode_offsets, encode_offsets
from reference_impl.ops.boxes import box_area
from reference_impl.ops.matching import best_overlaps, match
from reference_impl.sampling import hard_negative_mining
from tools.data import coco

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


def test_decoding_undoes_encoding(device: str) -> None:
    anchors = ssd300(device)[::97]
    boxes = anchors + torch.rand(anchors.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(device) * 9
    torch.testing.assert_close(decode_offsets(encode_offsets(boxes, anchors), anchors), boxes)


def test_too_few_levels_are_named() -> None:
    with pytest.raises(ValueError, match="`ratios` has 2 levels; expected at least 3"):
        SSD([1, 1], [[2.0], [2.0]], 1)


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


def test_it_learns_the_boxes_of_an_image(device: str) -> None:
    torch.manual_seed(0)
    head = SSD([8, 8, 8], [[2.0], [2.0], [2.0]], 2).to(device)
    levels = [x.float() for x in maps(device, [8, 4, 2], [8, 8, 8])]
    boxes = torch.tensor([[[4.0, 4.0, 18.0, 16.0], [10.0, 20.0, 60.0, 60.0]]], device=device).expand(2, 2, 4)
    labels = torch.tensor([0, 1, 2], device=device)
    anchors = head(levels, 64, 64)[2]
    truth = match(anchors, boxes, negative=0.5)
    positive = truth >= 0
    target = encode_offsets(boxes.gather(-2, truth.clamp(min=0)[..., None].expand(*truth.shape, 4)), anchors)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        logits, offsets, _ = head(levels, 64, 64)
        by_class = cross_entropy(logits.transpose(1, 2), labels[truth], reduction="none")
        weight = hard_negative_mining(by_class, positive, ~positive)
        by_box = smooth_l1_loss(offsets, target, reduction="none").sum(-1)
        loss = ((by_class * weight).sum() + (by_box * positive).sum()) / positive.sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 10
    decoded = decode_offsets(offsets.detach(), anchors)[positive]
    expected = boxes[0][truth[positive]]
    assert (decoded - expected).abs().max() < 6
