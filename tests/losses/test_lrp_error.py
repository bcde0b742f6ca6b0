"""Laws of the LRP error."""

import torch
from torch import Tensor

from reference_impl.losses import lrp_error, lrp_of_classes, optimal_lrp

Case = tuple[Tensor, Tensor, Tensor, Tensor]


def detections(device: str) -> Case:
    """Four classes with 40 detections each, some with equal scores: score, IoU, whether matched, number of ground truths."""
    generator = torch.Generator().manual_seed(0)
    score = torch.randint(0, 30, (4, 40), generator=generator).double() / 30
    iou = 0.5 + 0.5 * torch.rand(4, 40, generator=generator, dtype=torch.float64)
    matched = torch.rand(4, 40, generator=generator, dtype=torch.float64) < score
    count = matched.sum(-1) + torch.tensor([0, 3, 10, 40])
    return score.to(device), iou.to(device), matched.to(device), count.to(device)


def test_perfect_detections_have_no_error_and_none_have_all(device: str) -> None:
    _, iou, matched, _ = detections(device)
    everything = torch.ones_like(matched)
    number = torch.full((4,), 40, device=device)
    for x in lrp_error(torch.ones_like(iou), everything, number):
        assert (x == 0).all()
    error, _, _, misses = lrp_error(iou, matched, number, ~everything)
    assert (error == 1).all()
    assert (misses == 1).all()


def test_it_is_the_weighted_sum_of_its_parts(device: str) -> None:
    _, iou, matched, count = detections(device)
    error, location, alarms, misses = lrp_error(iou, matched, count)
    tp = matched.sum(-1)
    total = count + 40 - tp
    torch.testing.assert_close(error, (tp * location / 0.5 + 40 * alarms + count * misses) / total)


def test_optimal_is_the_least_over_every_threshold(device: str) -> None:
    score, iou, matched, count = detections(device)
    error, *parts, threshold = optimal_lrp(score, iou, matched, count)
    for i in range(4):
        tried = {}
        for s in score[i].unique().tolist():
            found = lrp_error(iou[i], matched[i], count[i], score[i] >= s)
            tried[s] = [x.item() for x in found]
        best = max(s for s, (e, *_) in tried.items() if e == min(e for e, *_ in tried.values()))
        assert threshold[i].item() == best
        torch.testing.assert_close([error[i].item(), *(x[i].item() for x in parts)], tried[best])


def test_a_tighter_box_lowers_the_error_and_a_false_alarm_raises_it(device: str) -> None:
    _, iou, matched, count = detections(device)
    error = lrp_error(iou, matched, count)[0]
    assert (lrp_error(iou + 0.1 * (1 - iou), matched, count)[0] < error).all()
    one_more = torch.zeros(4, 1, dtype=torch.float64, device=device)
    assert (lrp_error(torch.cat((iou, one_more), -1), torch.cat((matched, one_more > 0), -1), count)[0] > error).all()


def test_only_the_order_of_the_scores_matters(device: str) -> None:
    score, iou, matched, count = detections(device)
    *found, threshold = optimal_lrp(score, iou, matched, count)
    *again, squared = optimal_lrp(score**2, iou, matched, count)
    for a, b in zip(found, again, strict=True):
        assert a.equal(b)
    torch.testing.assert_close(squared, threshold**2)


def test_thresholds_differ_between_classes(device: str) -> None:
    """The survey's argument: one class is sure of itself at scores at which another is only guessing."""
    score, iou, *_ = detections(device)
    level = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64, device=device)[:, None]
    *_, threshold = optimal_lrp(score, iou, score > level, (score > level).sum(-1))
    assert (threshold.diff() > 0).all()
    assert (threshold > level.squeeze(-1)).all()


def images(device: str) -> list[Tensor]:
    """Six images with twelve detections and eight ground truths of three classes each, which lie near each other in pairs."""
    draw = torch.Generator().manual_seed(0)
    corner = 100 * torch.rand(6, 8, 2, generator=draw, dtype=torch.float64)
    target = torch.cat((corner, corner + 20), -1)
    pred = torch.cat((target, target[:, :4]), 1) + 4 * torch.randn(6, 12, 4, generator=draw, dtype=torch.float64)
    target_labels = torch.randint(3, (6, 8), generator=draw)
    labels = torch.cat((target_labels, target_labels[:, :4]), 1)
    score = torch.rand(6, 12, generator=draw, dtype=torch.float64)
    return [x.to(device) for x in (pred, score, labels, target, target_labels)]


def test_the_best_cut_is_as_good_as_any(device: str) -> None:
    """To cut the classes where their error is least gives that error, and no other cut gives less."""
    given, classes = images(device), torch.arange(3, device=device)
    *best, cut = lrp_of_classes(*given, classes)
    *again, _ = lrp_of_classes(*given, classes, cut)
    for a, b in zip(best, again, strict=True):
        torch.testing.assert_close(a, b)
    for other in torch.linspace(0, 1, 21).tolist():
        assert (lrp_of_classes(*given, classes, torch.full_like(cut, other))[0] >= best[0] - 1e-12).all()


def test_to_cut_is_to_leave_out(device: str) -> None:
    """A match does not depend on what is less confident."""
    pred, score, labels, target, target_labels = images(device)
    classes, cut = torch.arange(3, device=device), torch.full((3,), 0.4, dtype=torch.float64, device=device)
    left = labels.masked_fill(score < 0.4, -1)
    *expected, _ = lrp_of_classes(pred, score, labels, target, target_labels, classes, cut)
    *found, _ = lrp_of_classes(pred, score, left, target, target_labels, classes, 0 * cut)
    for a, b in zip(found, expected, strict=True):
        assert a.equal(b)


def test_an_image_says_nothing_about_another(device: str) -> None:
    """Only their counts come together: in any order, and with an image more that has nothing on it."""
    given, classes = images(device), torch.arange(3, device=device)
    expected = lrp_of_classes(*given, classes)
    turned = lrp_of_classes(*(x.flip(0) for x in given), classes)
    pred, score, labels, target, target_labels = (torch.cat((x, x[:1])) for x in given)
    labels[-1] = target_labels[-1] = -1
    for a, b, c in zip(expected, turned, lrp_of_classes(pred, score, labels, target, target_labels, classes), strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)
