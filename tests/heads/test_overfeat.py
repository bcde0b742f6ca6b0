"""Laws of dense windows with shifted pooling, of their targets, and of boxes that gather instead of suppressing each other."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from reference_impl.heads import OverFeat, merge_predictions, overfeat_loss, window_targets
from reference_impl.ops.boxes import box_iou


def network(device: str, **changed: int | bool) -> OverFeat:
    torch.manual_seed(3)
    small = {"size": 2, "pool": 3, "hidden_6": 6, "hidden_7": 5, "regression_1": 4, "regression_2": 3, "stride": 4, "field": 26}
    module = OverFeat(2, 3, **(small | changed)).double().eval().to(device)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def features(device: str, height: int = 13, width: int = 16) -> Tensor:
    return torch.randn(2, 2, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)


def test_every_window_is_what_it_would_be_cut_out_of_the_map(device: str) -> None:
    """Its pooled cells go through the layers as a vector; the windows are one cell apart."""
    module, x = network(device), features(device)
    logits, edges = module(x)
    rows, columns = 3 * ((13 - 2) // 3 - 1), 3 * ((16 - 2) // 3 - 1)
    assert logits.shape == (2, rows * columns, 4)
    assert edges.shape == (2, rows * columns, 3, 4)
    for row in range(rows):
        for column in range(columns):
            pooled = max_pool2d(x[..., row : row + 6, column : column + 6], 3)
            for layers, found in ((module.classify, logits), (module.regress, edges.flatten(2))):
                vector = pooled.flatten(1)
                for layer in layers:
                    vector = layer(vector) if not isinstance(layer, torch.nn.Conv2d) else vector @ layer.weight.flatten(1).T + layer.bias
                torch.testing.assert_close(found[:, row * columns + column], vector)


@pytest.mark.parametrize(("height", "width", "rows", "columns"), [(17, 17, 3, 3), (20, 23, 6, 9)])
def test_the_sizes_of_the_paper(height: int, width: int, rows: int, columns: int) -> None:
    """An image of 245 x 245 pixels has 3 x 3 windows, one of 281 x 317 has 6 x 9: the paper's Fig. 3 and 8 for the second."""
    with torch.device("meta"):
        logits, edges = OverFeat(classes=1000, per_class=False)(torch.zeros(1, 256, height, width))
    assert logits.shape == (1, rows * columns, 1001)
    assert edges.shape == (1, rows * columns, 1, 4)


def test_the_windows_of_the_paper() -> None:
    """They start in the corner, are 12 pixels apart, and end with the image of 245 x 245 pixels."""
    module = network("cpu", size=5, stride=12, field=221)
    windows = module.windows(17, 17)
    assert windows[:2].tolist() == [[0, 0, 221, 221], [12, 0, 233, 221]]
    assert windows[3].tolist() == [0, 12, 221, 233]
    assert windows.amax(0).tolist() == [24, 24, 245, 245]
    assert module.windows(20, 23, scale=2.0)[-1].tolist() == [48, 30, 158.5, 140.5]


def test_a_map_that_is_too_small_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="a window has 2 x 2 pooled cells"):
        network(device)(features(device, 7, 30))
    with pytest.raises(ValueError, match="expected 2 channels"):
        network(device)(torch.zeros(1, 3, 20, 20, device=device, dtype=torch.float64))


def test_targets_and_detections_are_each_others_inverse(device: str) -> None:
    """What a window should say of its object, decoded as a detection is, is the object; at every scale."""
    module = network(device, per_class=False)
    objects = torch.tensor([[0.0, 0.0, 16.0, 30.0], [70.0, 5.0, 110.0, 40.0], [40.0, 60.0, 120.0, 90.0]], device=device).double()
    windows = module.windows(13, 16, scale=0.5)
    label, target = window_targets(windows, objects, torch.arange(3, device=device), classes=3)
    assert label.unique().tolist() == [0, 1, 2, 3]
    size = (windows[:, 2:] - windows[:, :2]).repeat(1, 2)
    decoded = target * size + windows[:, :2].repeat(1, 2)
    for i in range(3):
        assert torch.allclose(decoded[label == i], objects[i])
    assert (target[label == 3] == 0).all()


def test_detections_are_those_of_the_likeliest_classes_of_each_scale(device: str) -> None:
    module, levels = network(device), [features(device), features(device, 10, 10)]
    boxes, score, labels, left = module.detect(levels, [1.0, 0.5], k=2, threshold=-2.0)
    assert left.all(), "nothing is merged below the lowest match score"
    first = module(levels[0])[0].softmax(-1)[..., :3]
    assert (first.amax(1).topk(2).indices.sort(-1).values != first.mean(1).topk(2).indices.sort(-1).values).any(), (
        "the classes would be the same"
    )
    start = 0
    for x, scale in zip(levels, [1.0, 0.5], strict=True):
        logits, edges = module(x)
        probability = logits.softmax(-1)[..., :3]
        n = 2 * probability.shape[1]
        for image in range(2):
            chosen = set(probability[image].amax(0).topk(2).indices.tolist())
            own = labels[image, start : start + n].view(-1, 2)
            assert {tuple(sorted(row)) for row in own.tolist()} == {tuple(sorted(chosen))}
            torch.testing.assert_close(score[image, start : start + n].view(-1, 2), probability[image].gather(1, own))
            windows = module.windows(*x.shape[-2:], scale=scale)
            side = 26 / scale
            expected = edges[image].gather(1, own[..., None].expand(-1, 2, 4)) * side + windows[:, None, :2].repeat(1, 1, 2)
            torch.testing.assert_close(boxes[image, start : start + n].view(-1, 2, 4), expected)
        start += n
    merged, total, same_labels, left = module.detect(levels, [1.0, 0.5], k=2)
    again = merge_predictions(boxes, score, labels)
    assert same_labels.equal(labels)
    for found, expected in zip((merged, total, left), again, strict=True):
        torch.testing.assert_close(found, expected)


def test_class_scores_are_the_mean_of_the_best_windows(device: str) -> None:
    module, levels = network(device), [features(device), features(device, 10, 10), features(device, 13, 10)]
    best = [module(x)[0].softmax(-1)[..., :3].max(1).values for x in levels]
    torch.testing.assert_close(module.class_scores(levels), (best[0] + best[1] + best[2]) / 3)


def by_the_paper(boxes: Tensor, score: Tensor, labels: Tensor, threshold: float) -> list[tuple[list[float], float, int]]:
    """The set of the paper, from which two boxes are taken and one is put back."""
    left = [(box, float(s), int(c)) for box, s, c in zip(boxes, score, labels, strict=True)]

    def match(a: Tensor, b: Tensor) -> float:
        distance = math.dist(((a[:2] + a[2:]) / 2).tolist(), ((b[:2] + b[2:]) / 2).tolist())
        around = math.dist(torch.minimum(a, b)[:2].tolist(), torch.maximum(a, b)[2:].tolist())
        return distance / around - float(box_iou(a, b))

    while True:
        pairs = [(match(a[0], b[0]), i, j) for j, b in enumerate(left) for i, a in enumerate(left[:j]) if a[2] == b[2]]
        if not pairs or min(pairs)[0] > threshold:
            return [(box.tolist(), s, c) for box, s, c in left]
        _, i, j = min(pairs)
        (a, s, c), (b, t, _) = left[i], left[j]
        left = [x for k, x in enumerate(left) if k not in (i, j)] + [((a + b) / 2, s + t, c)]


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.4])
def test_merging_is_the_algorithm_of_the_paper(device: str, threshold: float) -> None:
    generator = torch.Generator().manual_seed(0)
    center = 40 * torch.randint(0, 3, (2, 30, 2), generator=generator) + 8 * torch.rand(2, 30, 2, generator=generator).double()
    half = 8 + 6 * torch.rand(2, 30, 2, generator=generator, dtype=torch.float64)
    boxes, score = torch.cat((center - half, center + half), -1), torch.rand(2, 30, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (2, 30), generator=generator)
    found = [x.cpu() for x in merge_predictions(*(x.to(device) for x in (boxes, score, labels)), threshold=threshold)]
    for image in range(2):
        expected = sorted(by_the_paper(boxes[image], score[image], labels[image], threshold))
        left = found[2][image]
        assert 2 <= len(expected) < 30
        assert int(left.sum()) == len(expected)
        merged = sorted(
            (box.tolist(), float(s), int(c))
            for box, s, c in zip(found[0][image][left], found[1][image][left], labels[image][left], strict=True)
        )
        for (box, s, c), (expected_box, expected_score, expected_class) in zip(merged, expected, strict=True):
            assert box == pytest.approx(expected_box)
            assert s == pytest.approx(expected_score)
            assert c == expected_class


def test_boxes_that_agree_win_over_a_surer_one_that_stands_alone(device: str) -> None:
    """With suppression the false positive would be first."""
    box = torch.tensor([10.0, 10.0, 50.0, 40.0], device=device)
    shifts = torch.tensor([0.0, 1.0, -1.0, 2.0], device=device)[:, None]
    boxes = torch.cat((box + shifts, torch.tensor([[80.0, 10.0, 110.0, 60.0]], device=device)))
    score = torch.tensor([0.4, 0.4, 0.3, 0.3, 0.9], device=device)
    merged, total, left = merge_predictions(boxes, score, torch.zeros(5, dtype=torch.int64, device=device))
    assert int(left.sum()) == 2
    assert box_iou(merged[total.argmax()], box) > 0.9


def test_scores_are_not_lost(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(3, 25, 4, generator=generator, dtype=torch.float64).sort(-1).values[..., [0, 1, 2, 3]].to(device)
    score = torch.rand(3, 25, generator=generator, dtype=torch.float64).to(device)
    _, total, _ = merge_predictions(boxes, score, torch.zeros(3, 25, dtype=torch.int64, device=device))
    torch.testing.assert_close(total.sum(-1), score.sum(-1))


def scenes(number: int, seed: int, device: str) -> tuple[Tensor, Tensor]:
    """Maps of 17 x 17 cells, four pixels each, with one bright object of 5 to 8 cells in noise; and its box in pixels."""
    generator = torch.Generator().manual_seed(seed)
    maps = 0.1 * torch.rand(number, 2, 17, 17, generator=generator, dtype=torch.float64)
    boxes = torch.zeros(number, 1, 4, dtype=torch.float64)
    for i in range(number):
        width, height = torch.randint(5, 9, (2,), generator=generator).tolist()
        x, y = (int(torch.randint(0, 17 - side + 1, (), generator=generator)) for side in (width, height))
        maps[i, 0, y : y + height, x : x + width] += 1
        boxes[i, 0] = 4 * torch.tensor([x, y, x + width, y + height])
    return maps.to(device), boxes.to(device)


def test_it_learns_to_find_an_object(device: str) -> None:
    """Trained on windows that see most of it; many of them agree on where it is."""
    torch.manual_seed(0)
    small = {"size": 4, "pool": 2, "hidden_6": 32, "hidden_7": 16, "regression_1": 64, "regression_2": 32, "stride": 4, "field": 32}
    module = OverFeat(2, 1, dropout=0.0, **small).double().to(device)  # type: ignore[arg-type]
    for layer in (*module.classify, *module.regress):
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    maps, boxes = scenes(150, 1, device)
    windows = module.windows(17, 17).expand(150, -1, 4)
    labels, target = window_targets(windows, boxes, torch.zeros(150, 1, dtype=torch.int64, device=device), classes=1)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.005)
    for _ in range(150):
        by_class, by_box = overfeat_loss(*module(maps), labels, target)
        loss = by_class.mean() + by_box.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    new, truth = scenes(12, 2, device)
    with torch.no_grad():
        found, score, _, left = module.eval().detect([new], [1.0], k=1, threshold=-0.3)
    best = score.where(left, 0).argmax(-1)
    assert box_iou(found[torch.arange(12), best], truth[:, 0]).mean() > 0.6
