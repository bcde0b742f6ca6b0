"""What the figures claim, and the simulation beside a slow one."""

import math
from itertools import pairwise

import pytest
import torch

from reference_impl.ops.boxes import box_iou
from tests.inputs import CATALOG
from tools.data import coco
from tools.figures import figure_11, figure_12, figure_15, figure_16, figure_18, guided_anchors_of_scenes
from tools.pyramids import box_statistics, measure
from tools.samplers import batch, outcome
from tools.scales import RESOLUTIONS, scales
from tools.simulation import RATES, box_losses, cases, corners, simulate


def test_the_bad_box_dominates_l2_more_than_l1() -> None:
    rows = {row.id: row for row in figure_11(box_losses(CATALOG, coordinates=lambda boxes: boxes)).rows}
    assert rows["losses.l2_loss"].shares[2] > 0.8 > rows["losses.l1_loss"].shares[2] > rows["losses.giou_loss"].shares[2]
    assert rows["losses.l1_loss"].values == [2.0, 5.0, 11.5]
    assert rows["losses.l2_loss"].values == [1.0, 6.5, 40.25]


def test_the_cascade_moves_the_ious_to_the_right() -> None:
    """From stage to stage, by the mean and above each threshold."""
    stages = figure_12().stages
    for before, after in pairwise(stages):
        assert before.mean < after.mean
        assert all(a < b for a, b in zip(before.above, after.above, strict=True))
    assert stages[-1].effective > stages[0].effective + 2


def test_guided_anchors_fit_better_than_squares() -> None:
    before, after = guided_anchors_of_scenes().stages
    assert after.mean > 3 * before.mean
    assert all(b > 5 * a for a, b in zip(before.above, after.above, strict=True))


def test_pixels_are_covered_unevenly() -> None:
    figure = figure_15()
    assert (figure.lowest, figure.highest) == (0, 6)
    assert 1 < figure.effective < figure.pixels


def test_classification_dominates_at_first() -> None:
    figure = figure_16()
    assert figure.classification == pytest.approx(math.log(81))
    assert figure.regression < figure.regression_scaled < figure.classification


def test_a_sliding_box_changes_its_label_once() -> None:
    before, near, after = figure_18(box_losses(CATALOG)).stops
    assert before.iou > near.iou >= 0.5 > after.iou
    assert [stop.positive for stop in (before, near, after)] == [True, True, False]


@pytest.mark.parametrize("id", ["losses.l2_loss", "losses.giou_loss"])
def test_the_simulation_is_a_loop_over_cases(id: str) -> None:
    """Of one point: the same mean error as when every case is sent on its way alone."""
    loss = box_losses(CATALOG)[id]
    start, targets = cases(1)
    total = 0.0
    few = range(0, len(start), 49)
    for i in few:
        box, goal = start[i : i + 1].clone(), targets[i : i + 1]
        for rate in RATES:
            box.requires_grad_()
            (slope,) = torch.autograd.grad(loss(corners(box), corners(goal)).sum(), box)
            box = box.detach()
            step = rate * (2 - box_iou(corners(box), corners(goal)).item())
            x, y, w, h = (box - step * slope)[0].tolist()
            box = torch.tensor([[x, y, w - step * slope[0, 2].item(), h - step * slope[0, 3].item()]], dtype=torch.float64)
        total += (box - goal).abs().sum().item()
    assert simulate(loss, 1).ways[list(few)].sum().item() == pytest.approx(total, abs=1e-9)


def test_which_losses_need_an_overlap() -> None:
    """Anchors that begin apart stay where they are under a loss of the overlap alone, and come home under the others."""
    losses = box_losses(CATALOG)
    start, targets = cases(4)
    apart = box_iou(corners(start), corners(targets)) == 0
    iou = simulate(losses["losses.iou_loss"], 4)
    assert iou.ways[apart].equal((start - targets).abs().sum(-1)[apart])
    assert simulate(losses["losses.giou_loss"], 4).apart > 0.9
    assert simulate(losses["losses.smooth_l1_loss"], 4).done == 1


def test_points_fill_the_disc_evenly() -> None:
    centers = cases(400)[0][::343, :2] - 10
    radius = centers.norm(dim=-1)
    assert radius.max() < 3
    assert (radius < 1.5).double().mean() == pytest.approx(0.25, abs=0.01)


def test_a_drawing_shows_what_was_computed() -> None:
    """FPN: four levels in and out, two convolutions for each, three sums."""
    found = measure(CATALOG, "pyramids.fpn")
    assert found.parameters == 3344384
    assert [found.drawing.count(f'class="{kind}"') for kind in ("input", "layer", "join", "output")] == [4, 8, 6, 4]
    assert found.levels == ["P2", "P3", "P4", "P5"]


def test_operations_are_those_of_the_formula() -> None:
    """Two operations for each weight and location: 1x1 from 256, 512, 1024 and 2048 channels, and 3x3, all to 256."""
    cells = [200 * 334, 100 * 167, 50 * 84, 25 * 42]
    weights = [256 * (c + 9 * 256) for c in (256, 512, 1024, 2048)]
    expected = 2 * sum(n * w for n, w in zip(cells, weights, strict=True)) / 1e9
    assert measure(CATALOG, "pyramids.fpn").gigaflops == pytest.approx(expected)


def test_boxes_on_their_levels() -> None:
    found = box_statistics()
    assert sum(row.count for row in found.rows) == found.count == 1408
    assert found.single.most / found.single.fewest > 1000
    assert all(row.fewest > 196 * 0.999 for row in found.rows[1:])


def test_samplers_balance_what_they_say() -> None:
    """Sampling brings foreground and background nearer; IoU-balanced sampling the bins; foreground-balanced sampling the classes."""
    after = {
        id: {e.name: e for e in found.effects}
        for id in CATALOG.implemented
        if id.startswith("sampling.") and (found := outcome(CATALOG, id))
    }
    for id in ("sampling.random_sampling", "sampling.hard_negative_mining", "sampling.ohem"):
        assert after[id]["foreground and background"].after > after[id]["foreground and background"].before + 0.3
    bins = after["sampling.iou_balanced_sampling"]["IoU bins of the negatives"]
    assert bins.after > bins.before + 0.5
    classes = after["sampling.online_foreground_balanced"]["classes of the positives"]
    assert classes.after > classes.before + 0.5
    assert batch().arguments["positive"].sum() < batch().arguments["positive"].numel() / 20
    overlaps = after["sampling.overlap_sampling"]["IoU bins of the negatives"]
    assert overlaps.after > overlaps.before + 0.5
    assert 1 < after["sampling.soft_balance_sampling"]["classes of the images"].after < 80
    sure = after["sampling.unified_sample_weighting"]["foreground and background"]
    assert sure.after < sure.before, "by its loss alone an easy box, which is background, weighs most"
    assert set(after["sampling.hard_negative_cache"]) == {"IoU bins of the negatives"}


def test_rules_of_scale_narrow_the_sizes() -> None:
    """Together, and in each of the parts; no object is lost: the parts of SNIP overlap, the levels of FPN do not."""
    found = scales()
    for id, rule in found.items():
        together = rule.after[-1:] if id != "pyramids.trident" else rule.after
        assert all(part.effective < rule.before.effective - 1.5 for part in together)
    objects = sum(found["pyramids.fpn"].before.counts)
    assert sum(found["sampling.snip"].before.counts) == objects * len(RESOLUTIONS)
    assert sum(found["sampling.snip"].after[-1].counts) > objects
    for rule in (found["sampling.snip"], found["sampling.sniper"], found["pyramids.fpn"]):
        assert [sum(row) for row in zip(*(part.counts for part in rule.after[:-1]), strict=True)] == rule.after[-1].counts
    assert sum(found["pyramids.fpn"].after[-1].counts) == objects


def test_sizes_by_a_loop_over_objects() -> None:
    """SNIP at the middle resolution, one object at a time."""
    original, counts = coco(), [0] * 6
    for size, boxes, valid in zip(original.size.tolist(), original.boxes.tolist(), original.valid.tolist(), strict=True):
        factor = min(800 / min(size), 1280 / max(size))
        for (x1, y1, x2, y2), real in zip(boxes, valid, strict=True):
            side = math.sqrt((x2 - x1) * (y2 - y1))
            if real and 32 <= side <= 150:
                counts[min(max(math.floor(math.log2(side * factor / 16)), 0), 5)] += 1
    assert scales()["sampling.snip"].after[1].counts == counts
