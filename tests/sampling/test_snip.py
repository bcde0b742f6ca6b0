"""Laws of SNIP, and what it does to the sizes of real objects."""

import torch
from torch import Tensor

from reference_impl.ops.boxes import box_area, box_iou
from reference_impl.ops.matching import BACKGROUND, IGNORED, match
from reference_impl.sampling import snip, snip_ignored_anchors
from tools.data import coco

# Shorter and longer side of the resized image, and the range of sizes in the original one, as SNIPER is configured for training.
PYRAMID = [(1400.0, 2000.0, 0.0, 80.0), (800.0, 1280.0, 32.0, 150.0), (512.0, 512.0, 120.0, torch.inf)]


def spread(sizes: Tensor) -> float:
    """Standard deviation in octaves."""
    return float(sizes.log2().std())


def test_no_object_is_lost_and_the_network_sees_fewer_sizes(device: str) -> None:
    """Objects of COCO on a pyramid: all of them are in range at some resolution, and their sizes there spread over half as many octaves."""
    data = coco()
    boxes, valid = data.boxes.to(device), data.valid.to(device)
    everything, in_range, times = [], [], torch.zeros_like(valid, dtype=torch.long)
    for short, longest, lowest, highest in PYRAMID:
        seen = box_area(data.resized(short, longest).boxes.to(device)).sqrt()
        kept = snip(boxes, torch.tensor([lowest, highest], device=device).expand(len(boxes), 2), valid) > 0
        everything.append(seen[valid])
        in_range.append(seen[kept])
        times += kept
    assert times[valid].min() == 1
    assert times[valid].max() == 2
    before, after = spread(torch.cat(everything)), spread(torch.cat(in_range))
    assert before > 1.6
    assert after < 0.6 * before
    # What is large in the network's pixels is gone from the fine images, what is small from the coarse one.
    assert in_range[0].max() < everything[0].max() / 3
    assert in_range[2].min() > 3 * everything[2].min()


def test_the_range_moves_with_the_image(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    corner = 100 * torch.rand(50, 2, generator=generator, dtype=torch.float64)
    boxes = torch.cat((corner, corner + 80 * torch.rand(50, 2, generator=generator, dtype=torch.float64)), -1).to(device)
    size_range = torch.tensor([15.0, 45.0], dtype=torch.float64, device=device)
    assert snip(4 * boxes, 4 * size_range).equal(snip(boxes, size_range))
    assert 0 < snip(boxes, size_range).sum() < 50


def scene(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Anchors of two sizes on a grid, objects of all sizes, and the range of the smaller anchors."""
    generator = torch.Generator().manual_seed(0)
    center = torch.cartesian_prod(torch.arange(4.0, 128, 8), torch.arange(4.0, 128, 8)).double()
    anchors = torch.cat([torch.cat((center - side / 2, center + side / 2), -1) for side in (16, 48)])
    corner = 90 * torch.rand(8, 2, generator=generator, dtype=torch.float64)
    side = torch.tensor([12.0, 15.0, 18.0, 21.0, 35.0, 45.0, 50.0, 60.0], dtype=torch.float64)[:, None]
    size_range = torch.tensor([10.0, 24.0], dtype=torch.float64)
    return anchors.to(device), torch.cat((corner, corner + side), -1).to(device), size_range.to(device)


def test_ignored_anchors_agree_with_a_loop(device: str) -> None:
    anchors, boxes, size_range = scene(device)
    expected = [any(float(box_iou(a, boxes[j])) > 0.3 for j in range(4, 8)) for a in anchors]
    assert snip_ignored_anchors(anchors, boxes, size_range).tolist() == expected


def test_objects_out_of_range_are_neither_found_nor_background(device: str) -> None:
    """No anchor is positive for them, and no negative overlaps them much; all objects in range are still found."""
    anchors, boxes, size_range = scene(device)
    in_range = snip(boxes, size_range) > 0
    labels = match(anchors, boxes, in_range).masked_fill(snip_ignored_anchors(anchors, boxes, size_range), IGNORED)
    assert in_range.tolist() == [True] * 4 + [False] * 4
    assert set(labels[labels >= 0].tolist()) <= {0, 1, 2, 3}
    assert len(labels[labels >= 0].unique()) >= 3
    background = anchors[labels == BACKGROUND]
    assert box_iou(background[:, None], boxes[~in_range]).max() <= 0.3
    everything = match(anchors, boxes)
    assert (labels == BACKGROUND).sum() < (everything < 0).sum() + (everything >= 4).sum()


def test_with_all_objects_in_range_nothing_is_ignored(device: str) -> None:
    anchors, boxes, _ = scene(device)
    assert not snip_ignored_anchors(anchors, boxes, torch.tensor([0.0, torch.inf], dtype=torch.float64, device=device)).any()
