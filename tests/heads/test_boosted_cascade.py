"""Laws of rectangle features, of the stages of a boosted cascade, and of the cascade as a whole."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from reference_impl.heads import (
    BoostedCascade,
    average_overlapping,
    boosted_stage,
    majority_vote,
    mirrored_windows,
    rectangle_features,
)
from reference_impl.heads.boosted_cascade import SHAPES, _all_rectangles
from reference_impl.ops.boosting import boosted_score
from reference_impl.ops.boxes import box_iou

SIDE = 6


def pictures(number: int, side: int, seed: int = 0) -> Tensor:
    return torch.rand(number, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(images: Tensor) -> Tensor:
    """One window that is the whole image."""
    height, width = images.shape[-2:]
    return images.new_tensor([0, 0, width, height]).expand(*images.shape[:-2], 1, 4)


def by_pixels(window: Tensor, rectangle: tuple[int, ...]) -> float:
    """A feature of a window in its own size: grey pixels less white ones, over the standard deviation."""
    x, y, width, height, kind = rectangle
    columns, rows = SHAPES[kind]
    total = 0.0
    for row in range(rows):
        for column in range(columns):
            part = window[y + row * height : y + (row + 1) * height, x + column * width : x + (column + 1) * width]
            total += float(part.sum()) * (1 if (row + column) % 2 else -1)
    return total / float(window.std(unbiased=False))


def test_all_features_of_a_window(device: str) -> None:
    """Each as its pixels say, and none twice."""
    window = pictures(1, SIDE)[0]
    rectangles = _all_rectangles(SIDE)
    assert len(set(rectangles)) == len(rectangles)
    expected = torch.tensor([by_pixels(window, rectangle) for rectangle in rectangles], dtype=torch.float64)
    found = rectangle_features(window.to(device), whole(window).to(device), torch.tensor(rectangles, device=device), size=SIDE)
    torch.testing.assert_close(found[0].cpu(), expected)


def test_the_number_of_features() -> None:
    """As skimage.feature.haar_like_feature_coord counts them, scikit-image 0.26.0."""
    kinds = torch.tensor(_all_rectangles(24))[:, 4]
    assert kinds.bincount().tolist() == [43200, 43200, 27600, 27600, 20736]


def test_a_larger_picture_has_the_same_features(device: str) -> None:
    """At any place, by any factor, and with any light."""
    window = pictures(1, SIDE).to(device)
    rectangles = torch.tensor(_all_rectangles(SIDE), device=device)
    expected = rectangle_features(window, whole(window), rectangles, size=SIDE)
    larger = interpolate(window[None], scale_factor=3)[0]
    found = rectangle_features(larger, whole(larger), rectangles, size=SIDE)
    torch.testing.assert_close(found, expected)
    two_parts = torch.tensor([SHAPES[kind] not in ((3, 1), (1, 3)) for kind in rectangles[:, 4].tolist()], device=device)
    scene = torch.rand(1, 40, 50, dtype=torch.float64).to(device)
    scene[:, 5:23, 9:27] = 4 * larger + 3
    found = rectangle_features(scene, scene.new_tensor([[[9, 5, 27, 23]]]), rectangles, size=SIDE)
    torch.testing.assert_close(found[..., two_parts], expected[..., two_parts])


def test_a_mirrored_window_has_the_features_of_the_mirrored_rectangles(device: str) -> None:
    """Two beside each other, and four, change their sign, since grey and white do; two mirrors are none."""
    images = pictures(2, 20, seed=3).to(device)
    boxes = images.new_tensor([[[3, 4, 12, 13], [0, 0, 20, 20]], [[11, 2, 17, 8], [14, 8, 20, 14]]])
    rectangles = torch.tensor(_all_rectangles(SIDE), device=device)
    x, y, width, height, kind = rectangles.unbind(-1)
    columns = torch.tensor([columns for columns, _ in SHAPES], device=device)[kind]
    other = torch.stack((SIDE - x - columns * width, y, width, height, kind), -1)
    seen = mirrored_windows(images, boxes)
    sign = 1 - 2 * (columns == 2).double()
    expected = sign * rectangle_features(images, boxes, other, size=SIDE)
    torch.testing.assert_close(rectangle_features(*seen, rectangles, size=SIDE), expected)
    again = mirrored_windows(*seen)
    assert again[0].equal(images)
    assert again[1].equal(boxes)


def test_three_that_err_apart_are_wrong_less_often_than_one(device: str) -> None:
    """Each is wrong for a tenth of the windows, so two of them for some 2.8 %."""
    truth, wrong = (torch.rand(*size, generator=torch.Generator().manual_seed(0)).to(device) for size in ((1, 20_000), (3, 20_000)))
    passes = (truth < 0.3) ^ (wrong < 0.1)
    mistakes = (majority_vote(passes) ^ (truth < 0.3)[0]).double().mean()
    # 3 * 0.1^2 * 0.9 + 0.1^3, and four standard deviations of it.
    assert (mistakes - 0.028).abs() < 0.005


def by_the_paper(features: Tensor, positive: Tensor, rounds: int) -> list[tuple[float, Tensor]]:
    """Fig. 3 of the paper, with every cut of every feature and both polarities tried: alpha and responses of each round."""
    y = positive.double()
    weight = torch.where(positive, 0.5 / positive.sum(), 0.5 / (~positive).sum()).double()
    found = []
    for _ in range(rounds):
        weight = weight / weight.sum()
        best: Any = (2.0, None)
        for x in features.T:
            ordered = x.unique()
            for cut in ((ordered[1:] + ordered[:-1]) / 2).tolist():
                for polarity in (1, -1):
                    h = (polarity * x < polarity * cut).double()
                    error = float((weight * (h - y).abs()).sum())
                    if error < best[0] - 1e-12:
                        best = error, h
        error, h = best
        beta = error / (1 - error)
        weight = weight * beta ** (1 - (h != y).double())
        found.append((-torch.tensor(beta, dtype=torch.float64).log().item(), h))
    return found


def examples(number: int, apart: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    positive = torch.rand(number, generator=generator) < 0.3
    return torch.randn(number, 5, generator=generator, dtype=torch.float64) + apart * positive[:, None], positive


def test_a_stage_is_what_the_paper_says(device: str) -> None:
    """Its sums of alpha h, half of all alpha as the threshold, and the lowering of that until all objects pass."""
    features, positive = examples(40, 0.7)
    feature, cut, weight, bar = (
        x.cpu() for x in boosted_stage(features.to(device), positive.to(device), k=8, recall=1.0, false_positives=0.0)
    )
    rounds = by_the_paper(features, positive, 8)
    total = sum(alpha * h for alpha, h in rounds)
    half = sum(alpha for alpha, _ in rounds) / 2
    torch.testing.assert_close(boosted_score(features, feature, cut, weight), total - half)
    torch.testing.assert_close(bar, (total - half)[positive].min())


@pytest.mark.parametrize("recall", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("false_positives", [0.2, 0.5])
def test_a_stage_meets_its_targets_with_no_feature_too_many(device: str, recall: float, false_positives: float) -> None:
    features, positive = (x.to(device) for x in examples(300, 1.3))
    held = torch.arange(300, device=device) % 2 == 0

    def rates(stage: tuple[Tensor, ...]) -> tuple[float, float]:
        *stumps, bar = stage
        passes = boosted_score(features, *stumps) >= bar
        return float(passes[positive & held].double().mean()), float(passes[~positive & held].double().mean())

    stage = boosted_stage(features, positive, held=held, k=40, recall=recall, false_positives=false_positives)
    needed = int((stage[2] != 0).sum())
    detected, mistaken = rates(stage)
    assert detected >= recall
    assert needed < 40
    assert mistaken <= false_positives
    if needed > 1:
        fewer = boosted_stage(features, positive, held=held, k=needed - 1, recall=recall, false_positives=false_positives)
        assert rates(fewer)[1] > false_positives


def faces(number: int, seed: int) -> Tensor:
    """Windows with a dark bar above a bright one, in noise."""
    windows = pictures(number, SIDE, seed)
    windows[:, 1:3, 1:5] -= 0.45
    windows[:, 3:5, 2:4] += 0.35
    return windows


def background(number: int, seed: int) -> Tensor:
    """Noise with a bright or dark rectangle anywhere."""
    windows, generator = pictures(number, SIDE, seed), torch.Generator().manual_seed(seed)
    for window in windows:
        x, y, width, height = torch.randint(1, 5, (4,), generator=generator).tolist()
        window[y : y + height, x : x + width] += float(torch.rand((), generator=generator)) * 2 - 1
    return windows


@cache
def trained(device: str, **changed: Any) -> tuple[BoostedCascade, Tensor, Tensor, Tensor, Tensor]:
    """A cascade, and the windows, which of them are faces, which measured the rates, and which of them are left."""
    windows = torch.cat((faces(200, 1), background(1200, 2))).to(device)
    positive = (torch.arange(1400, device=device) < 200)[:, None]
    held = torch.arange(1400, device=device)[:, None] % 2 == 0
    cascade = BoostedCascade(**{"size": SIDE, "stages": 3, "k": 25, "recall": 0.98, "false_positives": 0.4} | changed).double().to(device)
    return cascade, windows, positive, held, cascade.fit(windows, whole(windows), positive, held)


def test_false_positives_fall_by_a_factor_each_stage_and_objects_are_kept(device: str) -> None:
    """On the windows that measure, as demanded; on new ones, nearly."""
    cascade, windows, positive, held, left = trained(device)
    alive, passed = cascade(windows, whole(windows))
    assert alive.equal(left)
    before = {"objects": positive & held, "background": ~positive & held}
    for stage in range(3):
        now = {name: mask & (passed > stage) for name, mask in before.items()}
        assert now["objects"].sum() >= 0.98 * before["objects"].sum()
        assert now["background"].sum() <= 0.4 * before["background"].sum()
        before = now
    new_faces, new_background = faces(400, 3).to(device), background(2000, 4).to(device)
    assert cascade(new_faces, whole(new_faces))[0].double().mean() > 0.85
    passed = cascade(new_background, whole(new_background))[1]
    rates = [float((passed > stage).double().mean()) for stage in range(3)]
    assert rates[0] < 0.5
    assert rates[1] < rates[0] / 2
    assert rates[-1] < 0.05


def test_a_window_costs_a_few_features(device: str) -> None:
    """Those of the stages that it reaches, which are far from all."""
    cascade, windows, positive, _, _ = trained(device)
    needed = (cascade.weight != 0).sum(-1)
    _, passed = cascade(windows, whole(windows))
    looked_at = needed.cumsum(0)[passed.clamp(max=len(needed) - 1)]
    assert looked_at[~positive].double().mean() < needed.sum() / 3
    assert needed[0] < needed[-1]


def test_a_later_stage_is_trained_on_what_the_earlier_ones_let_through(device: str) -> None:
    """Of the background, that is; and of no more of it than is asked for."""
    cascade, windows, positive, held, _ = trained(device)
    rectangles = torch.tensor(_all_rectangles(SIDE), device=device)
    features = rectangle_features(windows, whole(windows), rectangles, size=SIDE)[:, 0]
    positive, held = positive[:, 0], held[:, 0]
    through = cascade(windows, whole(windows))[1][:, 0] > 0
    feature, cut, weight, bar = boosted_stage(
        features[through], positive[through], held=held[through], k=25, recall=0.98, false_positives=0.4
    )
    assert rectangles[feature].equal(cascade.rectangle[1])
    for found, expected in ((cut, cascade.threshold), (weight, cascade.weight), (bar, cascade.bar)):
        torch.testing.assert_close(found, expected[1])


def test_no_stage_is_added_when_the_overall_target_is_met(device: str) -> None:
    cascade, windows, positive, held, _ = trained(device)
    passed = cascade(windows, whole(windows))[1] > 0
    on_those_that_measure, on_all = (float(passed[mask].double().mean()) for mask in (~positive & held, ~positive))
    assert on_those_that_measure != on_all
    stages = [int((trained(device, overall=rate)[0].weight != 0).any(-1).sum()) for rate in (on_those_that_measure, on_all)]
    assert stages == ([1, 1] if on_all > on_those_that_measure else [1, 2])
    shorter = trained(device, overall=on_those_that_measure)[0]
    assert (shorter.bar[1:] == torch.finfo(torch.float32).min).all()


def test_a_limit_on_the_background(device: str) -> None:
    """The stage sees the windows with the highest noise, and is another one for it."""
    cascade = BoostedCascade(size=SIDE, stages=1, k=3, negatives=50).double().to(device)
    windows = torch.cat((faces(50, 1), background(200, 2))).to(device)
    positive = (torch.arange(250, device=device) < 50)[:, None]
    noise = torch.arange(250, device=device, dtype=torch.float64)[:, None] / 250
    cascade.fit(windows, whole(windows), positive, noise=noise)
    chosen = (positive | (noise >= 0.8))[:, 0]
    alone = BoostedCascade(size=SIDE, stages=1, k=3).double().to(device)
    alone.fit(windows[chosen], whole(windows[chosen]), positive[chosen])
    assert cascade.rectangle.equal(alone.rectangle)
    torch.testing.assert_close(cascade.weight, alone.weight)


def test_before_training_nothing_is_rejected(device: str) -> None:
    windows = pictures(5, SIDE).to(device)
    alive, passed = BoostedCascade(size=SIDE, stages=3, k=2).double().to(device)(windows, whole(windows))
    assert alive.all()
    assert (passed == 3).all()
    scene = pictures(2, SIDE + 1).to(device)
    boxes, detected = BoostedCascade(size=SIDE, stages=3, k=2).double().to(device).detect(scene)
    assert detected.sum(-1).tolist() == [1, 1], "all four windows overlap"
    torch.testing.assert_close(boxes[detected], scene.new_tensor([[0.5, 0.5, 6.5, 6.5]]).expand(2, 4))


def test_the_windows_of_a_search() -> None:
    """24 pixels and factors of 5/4 from there, one pixel apart at first and, at scales from 3/2 on, two."""
    windows = BoostedCascade().windows(40, 50)
    side = windows[:, 2] - windows[:, 0]
    assert side.unique().tolist() == [24, 30, 38]
    assert (windows[:, 3] - windows[:, 1]).equal(side)
    assert [(side == s).sum().item() for s in (24, 30, 38)] == [17 * 27, 11 * 21, 2 * 7]
    assert windows.amax(0).tolist()[2:] == [50, 40]
    assert len(BoostedCascade().windows(20, 50)) == 0
    assert len(BoostedCascade(shift=2.0).windows(24, 33)) == 5


def test_faces_are_found_in_a_scene(device: str) -> None:
    """At two scales, and the search agrees with the cascade on all windows."""
    cascade, *_ = trained(device, stages=5, step=2.0)
    scene = torch.full((2, 30, 30), 0.5, dtype=torch.float64, device=device) + 0.01 * pictures(2, 30, 5).to(device)
    scene[0, 4:10, 6:12] = faces(1, 9)[0].to(device)
    scene[0, 14:26, 15:27] = interpolate(faces(1, 10)[None], scale_factor=2)[0, 0].to(device)
    windows = cascade.windows(30, 30).to(scene).expand(2, -1, 4)
    alive, _ = cascade(scene, windows)
    boxes, detected = cascade.detect(scene)
    for image in range(2):
        expected, first = average_overlapping(windows[image, alive[image]])
        torch.testing.assert_close(boxes[image, detected[image]].sort(0).values, expected[first].sort(0).values)
    truth = scene.new_tensor([[6, 4, 12, 10], [15, 14, 27, 26]])
    overlap = box_iou(truth[:, None], boxes[0, detected[0]][None])
    assert (overlap.amax(1) > 0.4).all()


def test_sets_of_overlapping_boxes_are_those_of_a_search(device: str) -> None:
    """From one box to all that it overlaps, and on from there."""
    generator = torch.Generator().manual_seed(0)
    corner = 60 * torch.rand(40, 2, generator=generator, dtype=torch.float64)
    boxes = torch.cat((corner, corner + 3 + 5 * torch.rand(40, 2, generator=generator, dtype=torch.float64)), -1)
    valid = torch.rand(40, generator=generator) < 0.9
    mean, first = (x.cpu() for x in average_overlapping(boxes.to(device), valid.to(device)))
    left, expected = set(valid.nonzero()[:, 0].tolist()), {}
    while left:
        start = min(left)
        together, waiting = {start}, [start]
        while waiting:
            now = boxes[waiting.pop()]
            near = {i for i in left - together if bool(box_iou(now, boxes[i]) > 0)}
            together |= near
            waiting += near
        expected[start] = boxes[sorted(together)].mean(0)
        left -= together
    assert first.nonzero()[:, 0].tolist() == sorted(expected)
    assert 5 < len(expected) < 35
    for index, box in expected.items():
        torch.testing.assert_close(mean[index], box)


def test_the_cascade_is_kept_with_the_weights(device: str) -> None:
    cascade, windows, _, _, left = trained(device)
    loaded = BoostedCascade(size=SIDE, stages=3, k=25).double().to(device)
    loaded.load_state_dict(cascade.state_dict())
    assert loaded(windows, whole(windows))[0].equal(left)
