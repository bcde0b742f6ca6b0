"""Laws of SNIPER's chips, and what they do to the sizes of real objects and to the number of pixels."""

import torch
from torch import Tensor

from reference_impl.ops.boxes import box_area, box_size
from reference_impl.sampling import chip_targets, negative_chips, snip, sniper
from tools.data import coco

# Shorter and longer side of the resized image, and the range of sizes in the original one, as SNIPER is configured for training.
PYRAMID = [(1400.0, 2000.0, 0.0, 80.0), (800.0, 1280.0, 32.0, 150.0), (512.0, 512.0, 120.0, torch.inf)]


def scene(n: int, seed: int = 0) -> Tensor:
    """Boxes of up to 24 pixels in an image of 120 by 90, where chips of 32 stand at every eighth pixel."""
    generator = torch.Generator().manual_seed(seed)
    side = 2 + 22 * torch.rand(n, 2, generator=generator, dtype=torch.float64)
    corner = (torch.tensor([120.0, 90.0], dtype=torch.float64) - side) * torch.rand(n, 2, generator=generator, dtype=torch.float64)
    return torch.cat((corner, corner + side), -1)


SIZE = torch.tensor([120.0, 90.0], dtype=torch.float64)
GRID = {"chip": 32, "stride": 8, "longest": 128}


def enclosed(chips: Tensor, boxes: Tensor) -> Tensor:
    """Which boxes are in which chips, `[chips boxes]`."""
    chips, boxes = chips[..., :, None, :], boxes[..., None, :, :]
    return (chips[..., :2] <= boxes[..., :2]).all(-1) & (boxes[..., 2:] <= chips[..., 2:]).all(-1)


def windows() -> Tensor:
    starts = [sorted({min(8 * i, side - 32) for i in range(20)}) for side in (90, 120)]
    return torch.tensor([[x, y, x + 32, y + 32] for y in starts[0] for x in starts[1]], dtype=torch.float64)


def test_every_object_that_fits_is_in_a_chip(device: str) -> None:
    """Its sides are at most the chip's less the stride; no larger one is sure to be."""
    for seed in range(5):
        boxes = scene(40, seed).to(device)
        chips, found = sniper(boxes, SIZE.to(device), **GRID)
        assert enclosed(chips[found], boxes).any(0).all()
        assert box_size(chips[found]).eq(32).all()
        assert chips[~found].eq(0).all()
    wide = torch.tensor([[1.0, 1.0, 28.0, 4.0], [5.0, 8.0, 35.0, 12.0]], dtype=torch.float64, device=device)
    chips, found = sniper(wide, SIZE.to(device), **GRID)
    assert enclosed(chips[found], wide).any(0).tolist() == [True, False]


def test_chips_agree_with_a_loop(device: str) -> None:
    """Sets of boxes, the window with most of them first, the first of those that tie."""
    for seed in range(3):
        boxes, candidates = scene(25, seed), windows()
        valid = torch.arange(25) % 5 > 0
        inside = enclosed(candidates, boxes)
        sets = [{j for j in range(25) if inside[i, j] and valid[j]} for i in range(len(candidates))]
        expected = []
        while any(sets):
            best = max(range(len(sets)), key=lambda i: (len(sets[i]), -i))
            expected.append(candidates[best].tolist())
            sets = [s - sets[best] for s in sets]
        arguments = [x.to(device) for x in (boxes, SIZE, valid, torch.zeros(25, dtype=torch.float64))]
        chips, found = sniper(*arguments, **GRID)
        assert chips[found].tolist() == expected
        assert found.tolist() == [i < len(expected) for i in range(25)]


def test_ties_are_broken_evenly(device: str) -> None:
    """One box is in nine windows of a row; each is taken as often."""
    draws = 9000
    boxes = torch.tensor([[40.0, 5.0, 46.0, 7.0]], device=device).expand(draws, 1, 4)
    noise = torch.rand(draws, 1, generator=torch.Generator().manual_seed(0)).to(device)
    chips, found = sniper(boxes, torch.tensor([120.0, 32.0], device=device).expand(draws, 2), None, noise, chip=32, stride=3, longest=128)
    assert found.all()
    count = torch.bincount(chips[:, 0, 0].long().cpu() // 3)
    assert count[:5].sum() == 0
    assert len(count) == 14
    statistic = float(((count[5:] - draws / 9) ** 2 / (draws / 9)).sum())
    # Nine equal chances have 8 degrees of freedom: P(X > x) = exp(-x/2) (1 + x/2 + (x/2)^2 / 2 + (x/2)^3 / 6), 1e-4 at 31.83.
    assert statistic < 31.83


def test_negative_chips_are_where_proposals_crowd_away_from_the_objects(device: str) -> None:
    boxes, proposals = scene(4).to(device), scene(200, 1).to(device)
    chips, _ = sniper(boxes, SIZE.to(device), **GRID)
    negative, chosen = negative_chips(proposals, chips, SIZE.to(device), fewest=4, **GRID)
    overlap = (proposals[:, None, 2:].minimum(chips[:, 2:]) - proposals[:, None, :2].maximum(chips[:, :2]) >= 1).all(-1).any(-1)
    left = proposals[~overlap]
    assert 0 < len(left) < 200
    assert chosen.any()
    taken = torch.zeros(len(left), dtype=torch.bool, device=device)
    for chip in negative[chosen]:
        new = enclosed(chip[None], left)[0] & ~taken
        assert new.sum() >= 4
        taken |= new
    still = left[~taken]
    assert max(int(row.sum()) for row in enclosed(windows().to(device), still)) < 4


def test_objects_keep_their_place_in_a_chip(device: str) -> None:
    """Moved back, what is in a chip is the part of the object that the chip shows."""
    boxes = scene(30).to(device)
    chips, found = sniper(boxes, SIZE.to(device), **GRID)
    everything = torch.tensor([0.0, torch.inf], dtype=torch.float64, device=device)
    inside, there, in_range = chip_targets(boxes, chips, everything, smallest=1.0)
    assert in_range.equal(there)
    assert not there[~found].any()
    back = inside + chips[:, None, :2].repeat(1, 1, 2)
    whole = enclosed(chips, boxes) & found[:, None]
    torch.testing.assert_close(back[whole], boxes.expand_as(back)[whole])
    assert there[whole].all()
    cut = there & ~whole
    assert (box_area(inside)[cut] < box_area(boxes).expand_as(cut)[cut]).all()
    assert ((inside >= 0) & (inside <= 32)).all()


def test_fewer_pixels_and_fewer_sizes_on_real_images(device: str) -> None:
    """Objects of COCO: chips hold all in range that fit, a third of the pyramid's pixels, and half as many octaves of sizes.

    The paper's abstract speaks of 30 % more pixels than training at 800 x 1333 has.
    """
    data = coco()
    boxes, valid = data.boxes.to(device), data.valid.to(device)
    before, after, pixels, of_pyramid = [], [], 0.0, 0.0
    for short, longest, lowest, highest in PYRAMID:
        resized = data.resized(short, longest)
        factor = (resized.size[:, :1] / data.size[:, :1]).to(device)
        seen = resized.boxes.to(device)
        size_range = torch.tensor([lowest, highest], dtype=torch.float64, device=device).expand(len(boxes), 2)
        wanted = snip(boxes, size_range, valid) > 0
        chips, found = sniper(seen, resized.size.to(device), wanted)
        fits = wanted & (box_size(seen).amax(-1) <= 512 - 32)
        assert (enclosed(chips, seen) & found[..., None]).any(-2)[fits].all()
        inside, _, in_range = chip_targets(seen, chips, size_range * factor, valid)
        before.append(box_area(seen).sqrt()[valid])
        after.append(box_area(inside).sqrt()[in_range])
        pixels += float((box_area(chips) * found).sum())
        of_pyramid += float(resized.size.prod(-1).sum())
    spread = [float(torch.cat(sizes).log2().std()) for sizes in (before, after)]
    assert spread[1] < 0.6 * spread[0]
    assert 0.25 < pixels / of_pyramid < 0.35
    single_scale = float(data.resized(800.0, 1333.0).size.prod(-1).sum())
    assert 1.15 < pixels / single_scale < 1.4
