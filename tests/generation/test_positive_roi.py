"""Laws of the bounding box generator and of the positive RoIs made with it."""

import torch
from torch import Tensor

from reference_impl.generation import bounding_box_generator, iou_quantile, positive_roi
from reference_impl.ops.boxes import box_area, box_iou

UNIT = [0.0, 0.0, 1.0, 1.0]


def boxes(n: int, device: str, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    corner, size = 400 * torch.rand(2, n, 2, generator=generator, dtype=dtype)
    return torch.cat((corner, corner + size + 1), -1).to(device)


def uniform(*size: int, device: str, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(device)


def chi_square(counts: Tensor, expected: Tensor) -> float:
    return ((counts - expected).square() / expected).sum().item()


def test_the_overlap_is_at_least_the_wanted_one(device: str) -> None:
    for dtype, slack in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        truth = boxes(20_000, device, dtype)
        wanted = 0.05 + 0.95 * uniform(20_000, device=device, dtype=dtype, seed=2)
        drawn = bounding_box_generator(truth, wanted, uniform(20_000, 5, device=device, dtype=dtype))
        assert (box_iou(truth, drawn) >= wanted - slack).all()
        assert (box_area(drawn) > 0).all()


def test_on_the_border_of_the_region_it_is_the_wanted_one(device: str) -> None:
    truth, wanted = boxes(5000, device), 0.3 + 0.7 * uniform(5000, device=device, seed=2)
    for border in (0.0, 1.0):
        noise = uniform(5000, 5, device=device)
        noise[:, 3] = border
        torch.testing.assert_close(box_iou(truth, bounding_box_generator(truth, wanted, noise)), wanted)


def test_only_the_box_itself_has_iou_1(device: str) -> None:
    truth = boxes(100, device)
    torch.testing.assert_close(bounding_box_generator(truth, torch.ones(100, dtype=truth.dtype, device=device)), truth)


def test_both_corners_are_uniform_in_their_regions(device: str) -> None:
    """Against points drawn from a rectangle and kept where the IoU allows it: as many in each cell of a grid."""
    n, wanted, unit = 40_000, 0.6, torch.tensor(UNIT, dtype=torch.float64, device=device)
    noise = uniform(n, 5, device=device)
    noise[:, 4] = 0.0
    iou = torch.full((n,), wanted, dtype=torch.float64, device=device)
    first = bounding_box_generator(unit.expand(n, 4), iou, noise)[:, :2]
    noise[:, :2] = torch.tensor([0.5, 0.25])
    second = bounding_box_generator(unit.expand(n, 4), iou, noise)

    def in_region(points: Tensor) -> Tensor:
        return box_iou(torch.cat((points, torch.ones_like(points)), -1), unit) >= wanted

    def in_second_region(points: Tensor) -> Tensor:
        return box_iou(torch.cat((second[: len(points), :2], points), -1), unit) >= wanted

    for drawn, feasible in ((first, in_region), (second[:, 2:], in_second_region)):
        low, high = drawn.amin(0), drawn.amax(0)
        proposed = low + (high - low) * uniform(n, 2, device=device, seed=3)
        kept = proposed[feasible(proposed)]

        def cells(points: Tensor, low: Tensor = low, high: Tensor = high) -> Tensor:
            place = ((points - low) / (high - low) * 6).long().clamp(0, 5)
            return torch.bincount(place[:, 0] * 6 + place[:, 1], minlength=36).double()

        here, there = cells(drawn), cells(kept)
        used = here + there > 0
        ratio = n / len(kept)
        difference = (here / ratio**0.5 - there * ratio**0.5).square()
        # Two samples, at most 36 cells: 35 degrees of freedom, of which 74.9 is the 1 - 1e-4 quantile.
        assert (difference[used] / (here + there)[used]).sum() < 74.9


def test_shifting_and_stretching_a_box_does_the_same_to_what_is_drawn(device: str) -> None:
    noise, wanted = uniform(500, 5, device=device), 0.3 + 0.7 * uniform(500, device=device, seed=2)
    unit = torch.tensor(UNIT, dtype=torch.float64, device=device)
    scale, shift = torch.tensor([[3.0, 0.5, 3.0, 0.5], [70.0, -8.0, 70.0, -8.0]], dtype=torch.float64, device=device)
    plain = bounding_box_generator(unit.expand(500, 4), wanted, noise)
    torch.testing.assert_close(bounding_box_generator((unit * scale + shift).expand(500, 4), wanted, noise), plain * scale + shift)


def test_neither_corner_is_preferred(device: str) -> None:
    """The other corner first is the same, turned by 180 degrees."""
    unit, noise = torch.tensor(UNIT, dtype=torch.float64, device=device).expand(500, 4), uniform(500, 5, device=device)
    wanted = 0.3 + 0.7 * uniform(500, device=device, seed=2)
    noise[:, 4] = 0.25
    top_left_first = bounding_box_generator(unit, wanted, noise)
    noise[:, 4] = 0.75
    torch.testing.assert_close(1 - bounding_box_generator(unit, wanted, noise)[:, [2, 3, 0, 1]], top_left_first)


def test_every_class_has_its_share(device: str) -> None:
    """Classes by weight, the ground truths of a class alike, what is not valid never."""
    labels = torch.tensor([0, 0, 0, 1, 2, 2, 1], device=device)
    valid = torch.tensor([True, True, True, True, True, False, False], device=device)
    weight = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64, device=device)
    noise, wanted = uniform(200, 16, 6, device=device), 0.5 + 0.5 * uniform(200, 16, device=device, seed=2)
    truths = boxes(7, device)
    for given, share in (
        (None, [1 / 9, 1 / 9, 1 / 9, 1 / 3, 1 / 3, 0, 0]),
        (weight, [1 / 24, 1 / 24, 1 / 24, 1 / 4, 5 / 8, 0, 0]),
    ):
        weights = None if given is None else given.expand(200, 3)
        drawn, truth = positive_roi(truths.expand(200, 7, 4), labels.expand(200, 7), wanted, valid.expand(200, 7), weights, noise)
        counts = torch.bincount(truth.flatten(), minlength=7).double()
        expected = 3200 * torch.tensor(share, dtype=torch.float64, device=device)
        assert counts[5:].eq(0).all()
        # Four degrees of freedom, quantile 1 - 1e-4.
        assert chi_square(counts[:5], expected[:5]) < 23.5
        each = torch.stack([torch.bincount(t, minlength=7) for t in truth]).double()
        assert (each - expected / 200).abs().max() < 2
        assert (box_iou(drawn, truths[truth]) >= wanted - 1e-12).all()


def test_a_border_takes_nothing_of_the_overlap(device: str) -> None:
    """What is cut off lies outside of the image, where no ground truth is; a box that lies inside stays as it is."""
    truth, labels = boxes(30, device), torch.zeros(30, dtype=torch.int64, device=device)
    size = truth[:, 2:].amax(0)
    noise, wanted = uniform(2000, 6, device=device), 0.5 + 0.5 * uniform(2000, device=device, seed=2)
    free, owner = positive_roi(truth, labels, wanted, noise=noise)
    cut, same = positive_roi(truth, labels, wanted, noise=noise, image_size=size)
    assert same.equal(owner)
    assert (cut >= 0).all()
    assert (cut[:, 2:] <= size).all()
    before, after = (box_iou(x, truth[owner]) for x in (free, cut))
    assert (after >= before - 1e-12).all()
    outside = (free < 0).any(-1) | (free[:, 2:] > size).any(-1)
    assert 10 < outside.sum() < 1000
    assert cut[~outside].equal(free[~outside])
    assert (after > before)[outside].all()


def test_the_wanted_iou_has_the_given_distribution(device: str) -> None:
    n, weight = 20_000, torch.tensor([3.0, 0.0, 1.0, 4.0, 2.0], dtype=torch.float64, device=device)
    wanted = iou_quantile(uniform(n, device=device), weight, highest=1.0)
    counts = torch.bincount(((wanted - 0.5) * 10).long().clamp(0, 4), minlength=5).double()
    assert counts[1] == 0
    kept = torch.tensor([0, 2, 3, 4], device=device)
    # Three degrees of freedom, quantile 1 - 1e-4.
    assert chi_square(counts[kept], n * weight[kept] / 10) < 21.2


def test_equal_weights_are_no_weights(device: str) -> None:
    share = uniform(500, device=device)
    torch.testing.assert_close(iou_quantile(share, torch.full((7,), 0.3, dtype=torch.float64, device=device)), iou_quantile(share))


def test_without_ground_truth_there_are_boxes_without_area(device: str) -> None:
    nothing, labels = torch.zeros(2, 0, 4, device=device), torch.zeros(2, 0, dtype=torch.int64, device=device)
    for result in positive_roi(nothing, labels, torch.full((2, 5), 0.7, device=device)):
        assert result.eq(0).all()
