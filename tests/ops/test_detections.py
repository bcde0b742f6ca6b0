"""Detections that choose all at once get what they would get one after the other."""

import pytest
import torch
from torch import Tensor

from reference_impl.ops.boxes import box_area, box_intersection, box_iou
from reference_impl.ops.detections import match_detections
from reference_impl.ops.matching import IGNORED


def boxes(n: int, draw: torch.Generator) -> Tensor:
    """Of few sizes and places, so that many fit alike."""
    corner = torch.randint(10, (n, 2), generator=draw)
    return torch.cat((corner, corner + torch.randint(4, 12, (n, 2), generator=draw)), -1).double()


def one_after_the_other(fit: Tensor, score: Tensor, ignored: Tensor, crowd: Tensor, threshold: float) -> tuple[list[int], list[float]]:
    """The rule in plain loops, of how well each detection fits each ground truth."""
    truth, value, taken = [-1] * len(score), [0.0] * len(score), set()
    for i in (-score).argsort(stable=True).tolist():
        left = [j for j in range(len(crowd)) if fit[i, j] >= threshold and (crowd[j] or j not in taken)]
        if left:
            j = max(left, key=lambda j: (not ignored[j], fit[i, j].item(), j))
            truth[i], value[i] = IGNORED if ignored[j] else j, fit[i, j].item()
            taken.add(j)
    return truth, value


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5])
def test_it_is_the_rule(device: str, threshold: float) -> None:
    draw = torch.Generator().manual_seed(0)
    for n, m in ((0, 3), (3, 0), (1, 2), (9, 4), (12, 12), (25, 5)) * 4:
        pred, target = boxes(n, draw), boxes(m, draw)
        score = torch.randint(8, (n,), generator=draw).double()
        labels, target_labels = (torch.randint(2, (x,), generator=draw) for x in (n, m))
        crowd, difficult = (torch.rand(m, generator=draw) < 0.2 for _ in range(2))
        part = box_intersection(pred[:, None], target) / box_area(pred)[:, None]
        fit = torch.where(crowd, part, box_iou(pred[:, None], target)).masked_fill(labels[:, None] != target_labels, -1)
        given = (x.to(device) for x in (pred, score, labels, target, target_labels, difficult, crowd))
        truth, value = match_detections(*given, threshold=threshold)
        expected, its_value = one_after_the_other(fit, score, difficult | crowd, crowd, threshold)
        assert truth.tolist() == expected
        torch.testing.assert_close(value.cpu(), torch.tensor(its_value).double())


def test_the_last_of_a_queue_is_served(device: str) -> None:
    """Each detection wants what the one before it gets, and hears of it only when that one has heard of its own."""
    place = torch.arange(7.0, dtype=torch.float64, device=device)[:, None]
    target = torch.cat((10 * place, 0 * place, 10 * place + 10, 0 * place + 10), -1)
    pred = target + torch.tensor([-5.5, 0, -5.5, 0], dtype=torch.float64, device=device)
    pred[0] = target[0]
    labels = torch.zeros(7, dtype=torch.int64, device=device)
    truth, _ = match_detections(pred, -place.squeeze(-1), labels, target, labels, threshold=0.25)
    assert truth.tolist() == [*range(7)]


def test_the_threshold_is_above_0_and_at_most_1() -> None:
    box, score, label = torch.zeros(1, 4), torch.zeros(1), torch.zeros(1, dtype=torch.int64)
    for threshold in (0.0, 1.5):
        with pytest.raises(ValueError, match="`threshold` is"):
            match_detections(box, score, label, box, label, threshold=threshold)
