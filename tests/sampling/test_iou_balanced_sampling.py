"""Laws of IoU-balanced sampling."""

import torch
from torch import Tensor

from reference_impl.sampling import iou_balanced_sampling, truth_balanced_sampling
from tests.sampling.uniformity import BOUND, CANDIDATES, DRAWN, DRAWS, statistic


def boxes(device: str) -> tuple[Tensor, Tensor]:
    """Eight sets of 300 boxes: few overlap an object, as in training."""
    generator = torch.Generator().manual_seed(0)
    iou = torch.rand(8, 300, generator=generator, dtype=torch.float64) ** 3
    return iou.to(device), (iou < 0.5).to(device)


def test_as_many_as_wanted_and_negatives_only(device: str) -> None:
    iou, negative = boxes(device)
    for wanted in (0, 1, 7, 100, 10_000):
        weight = iou_balanced_sampling(iou, negative, num_negatives=wanted)
        assert weight.sum(-1).equal(negative.sum(-1).clamp(max=wanted).double())
        assert weight[~negative].eq(0).all()


def test_each_bin_gives_the_same_number(device: str) -> None:
    iou, negative = boxes(device)
    chosen = iou_balanced_sampling(iou, negative, num_negatives=15, bins=3).bool()
    lowest = torch.where(negative, iou, 1).amin(-1, keepdim=True)
    highest = torch.where(negative, iou, 0).amax(-1, keepdim=True)
    place = (iou - lowest) / (highest - lowest)
    for k in range(3):
        assert (chosen & (place >= k / 3) & (place <= (k + 1) / 3)).sum(-1).eq(5).all()


def test_one_bin_is_random_sampling(device: str) -> None:
    iou, negative = boxes(device)
    noise = torch.rand_like(iou)
    weight = iou_balanced_sampling(iou, negative, noise, num_negatives=20, bins=1)
    threshold = noise.masked_fill(~negative, -1).topk(20).values[:, -1:]
    assert weight.bool().equal(negative & (noise >= threshold))


def test_the_iou_of_other_boxes_does_not_matter(device: str) -> None:
    iou, negative = boxes(device)
    noise, fill = torch.rand_like(iou), torch.rand_like(iou)
    other = torch.where(negative, iou, torch.rand_like(iou))
    first, second = (iou_balanced_sampling(x, negative, noise, fill, num_negatives=30) for x in (iou, other))
    assert first.equal(second)


def test_equal_overlaps_are_drawn_at_random(device: str) -> None:
    iou = torch.full((1, 50), 0.25, device=device)
    weight = iou_balanced_sampling(iou, torch.ones_like(iou, dtype=torch.bool), num_negatives=10)
    assert weight.sum() == 10


def test_an_inner_edge_belongs_to_the_bin_above_however_it_is_rounded(device: str) -> None:
    """Overlaps of 0.1, 0.2, 0.3, ...: with two of each, one of each bin is drawn."""
    for dtype in (torch.float32, torch.float64):
        for bins in (3, 5, 6, 7):
            iou = torch.tensor([k / 10 for k in range(bins) for _ in range(2)] + [bins / 10], dtype=dtype, device=device)
            negative = torch.ones_like(iou, dtype=torch.bool)
            noise = torch.ones_like(iou)
            noise[-1] = 0
            chosen = iou_balanced_sampling(iou, negative, noise, num_negatives=bins, bins=bins)
            assert chosen.tolist() == [1, 0] * bins + [0]


def test_in_every_bin_each_subset_is_as_likely_as_any_other(device: str) -> None:
    """Bins of 6, 12 and 2 negatives give two each."""
    torch.manual_seed(0)
    iou = torch.tensor([0.3] * 12 + [0.0] * CANDIDATES + [0.45, 0.5], device=device).expand(DRAWS, -1)
    weight = iou_balanced_sampling(iou, torch.ones_like(iou, dtype=torch.bool), num_negatives=3 * DRAWN)
    assert statistic(weight[:, 12 : 12 + CANDIDATES]) < BOUND
    count, expected = weight[:, :12].sum(0), DRAWS * DRAWN / 12
    # Inclusion of 2 of 12: 11 degrees of freedom after the variance of one is scaled, of which 37.4 is the 1 - 1e-4 quantile.
    assert ((count - expected).square() / expected).sum() * 11 / 10 < 37.4
    assert weight[:, 12 + CANDIDATES :].eq(1).all()


def test_what_is_left_over_is_filled_alike_from_all(device: str) -> None:
    """A bin with one box too many and a bin with many: after the bins gave theirs, each box left has the same chance."""
    iou = torch.tensor([0.0] * 2 + [0.4] * 10, device=device).expand(DRAWS, 12)
    generator = torch.Generator(device).manual_seed(0)
    noise, fill = torch.rand(2, DRAWS, 12, generator=generator, device=device)
    chosen = iou_balanced_sampling(iou, torch.ones_like(iou, dtype=torch.bool), noise, fill, num_negatives=3, bins=2)
    # One of each bin, and one of the remaining 1 + 9, so that the small bin gives both of its boxes in one of ten draws.
    both, expected = (chosen[:, :2].sum(-1) == 2).sum(), DRAWS / 10
    # One degree of freedom, of which 15.1 is the 1 - 1e-4 quantile.
    assert (both - expected) ** 2 / expected + (both - expected) ** 2 / (DRAWS - expected) < 15.1


def test_each_ground_truth_gives_as_many(device: str) -> None:
    """Ground truths with 2, 5 and 12 positives, and boxes that are none."""
    truth = torch.tensor([8] * 2 + [3] * 5 + [0] * 12 + [5] * 4, device=device).expand(50, -1)
    positive = (truth != 5).contiguous()
    for wanted, least in ((6, (2, 2, 2)), (9, (2, 3, 3)), (3, (1, 1, 1)), (100, (2, 5, 12))):
        weight = truth_balanced_sampling(truth, positive, num_positives=wanted)
        assert weight.sum(-1).eq(min(wanted, 19)).all()
        assert weight[~positive].eq(0).all()
        for index, count in zip((8, 3, 0), least, strict=True):
            assert (weight * (truth == index)).sum(-1).ge(count).all()


def test_within_a_ground_truth_each_subset_is_as_likely_as_any_other(device: str) -> None:
    torch.manual_seed(0)
    truth = torch.tensor([1] * 20 + [0] * CANDIDATES, device=device).expand(DRAWS, -1)
    weight = truth_balanced_sampling(truth, torch.ones_like(truth, dtype=torch.bool), num_positives=2 * DRAWN)
    assert statistic(weight[:, 20:]) < BOUND


def test_more_ground_truths_than_are_wanted_is_random_sampling(device: str) -> None:
    truth = torch.arange(20, device=device)
    fill = torch.rand(20, device=device)
    weight = truth_balanced_sampling(truth, truth < 15, None, fill, num_positives=4)
    assert weight.bool().equal((truth < 15) & (fill >= fill[:15].topk(4).values[-1]))
