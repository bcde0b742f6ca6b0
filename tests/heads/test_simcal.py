"""Laws of SimCal."""

import torch
from torch.nn.functional import cross_entropy

from reference_impl.heads import CalibrationHead, bilevel_sampling, draw_classes, simcal
from tests.sampling.uniformity import BOUND, CANDIDATES, DRAWN, DRAWS, statistic


def test_without_rare_classes_nothing_changes(device: str) -> None:
    logits, calibrated = torch.randn(2, 3, 40, 6, dtype=torch.float64, device=device)
    counts = torch.tensor([5, 50, 500, 5000, 50_000, 0], device=device)
    assert simcal(logits, calibrated, counts, threshold=0).equal(logits.softmax(-1))
    assert simcal(logits, calibrated, counts, threshold=100_000)[..., :-1].equal(calibrated.softmax(-1)[..., :-1])
    assert simcal(logits, logits, counts).equal(logits.softmax(-1))


def test_every_class_with_an_instance_is_drawn_as_often(device: str) -> None:
    counts = torch.tensor([10_000, 0, 1, 30, 0, 2], device=device)
    noise = (torch.arange(40_000, dtype=torch.float64, device=device) + 0.5) / 40_000
    share = torch.bincount(draw_classes(noise, counts), minlength=6) / 40_000
    torch.testing.assert_close(share, torch.tensor([0.25, 0, 0.25, 0.25, 0, 0.25], device=device))


def test_drawn_classes_are_uniform(device: str) -> None:
    counts = torch.tensor([10_000, 0, 1, 30, 0, 2, 4, 1], device=device)
    noise = torch.rand(DRAWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
    drawn = draw_classes(noise, counts).bincount(minlength=8)
    assert drawn[counts == 0].eq(0).all()
    expected = DRAWS / 6
    # 5 degrees of freedom, of which 25.7 is the 1 - 1e-4 quantile.
    assert ((drawn[counts > 0] - expected).square() / expected).sum() < 25.7


def test_every_subset_of_the_background_is_as_likely_as_any_other(device: str) -> None:
    """Two boxes of the drawn class, two of another, which do not count, and six of background."""
    torch.manual_seed(0)
    labels = torch.tensor([1] * DRAWN + [0, 2] + [3] * CANDIDATES, device=device).expand(DRAWS, -1)
    positive = labels < 3
    weight = bilevel_sampling(labels, torch.ones_like(labels), positive, ~positive)
    assert statistic(weight[:, -CANDIDATES:]) < BOUND


def test_the_boxes_of_a_batch_are_balanced(device: str) -> None:
    """Drawing classes alone leaves the frequent class in the majority, as it is in every image; the second level takes it out."""
    images, boxes, classes = 400, 12, 5
    generator = torch.Generator().manual_seed(0)
    drawn = draw_classes(torch.rand(images, generator=generator, dtype=torch.float64), torch.tensor([9000, 300, 40, 12, 5]))[
        :, None
    ].expand(-1, boxes)
    labels = torch.zeros(images, boxes, dtype=torch.int64)
    labels[:, 0] = drawn[:, 0]
    negative = torch.zeros_like(labels, dtype=torch.bool)
    negative[:, 6:] = True
    labels, drawn, negative = labels.flatten().to(device), drawn.flatten().to(device), negative.flatten().to(device)
    frequency = torch.bincount(labels[~negative], minlength=classes)
    assert frequency[0] > 5 * frequency[1:].sum()
    weight = bilevel_sampling(labels, drawn, ~negative, negative).bool()
    chosen = torch.bincount(labels[weight & ~negative & (labels > 0)], minlength=classes)[1:]
    assert chosen.max() < 1.5 * chosen.min()
    assert (labels == drawn)[weight & ~negative].all()
    assert (weight & negative).sum() == min(int((weight & ~negative).sum()), int(negative.sum()))


def test_calibration_repairs_a_biased_head(device: str) -> None:
    """A head that was trained on 40 boxes of one class for each of the other loses the rare one; trained anew it finds it."""
    torch.manual_seed(0)
    center = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64, device=device)

    def draw(numbers: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.repeat_interleave(torch.arange(2, device=device), torch.tensor(numbers, device=device))
        return center[labels] + torch.randn(len(labels), 2, dtype=torch.float64, device=device), labels

    def train(features: torch.Tensor, labels: torch.Tensor) -> CalibrationHead:
        head = CalibrationHead(2, 2, hidden=16).double().to(device)
        optimiser = torch.optim.Adam(head.parameters(), lr=0.01)
        for _ in range(100):
            optimiser.zero_grad()
            cross_entropy(head(features), labels).backward()
            optimiser.step()
        return head

    features, labels = draw([2000, 50])
    original = train(features, labels)
    everywhere = torch.ones_like(labels, dtype=torch.bool)
    drawn = torch.where(torch.rand(len(labels), device=device) < 0.025, 0, 1)
    chosen = bilevel_sampling(labels, drawn, everywhere, ~everywhere).bool()
    calibrated = train(features[chosen], labels[chosen])
    unseen, truth = draw([500, 500])
    rare = truth == 1
    assert (original(unseen).argmax(-1)[rare] == 1).double().mean() < 0.5
    assert (calibrated(unseen).argmax(-1)[rare] == 1).double().mean() > 0.7
