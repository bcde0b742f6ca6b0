"""The survey's toy figures, made anew by running the implementations. The survey prints them as pictures: the boxes here are our own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from markupsafe import Markup
from torch import Tensor
from torch.nn.functional import cross_entropy

from reference_impl.generation import bounding_box_generator, iou_quantile
from reference_impl.heads import CascadeRCNN, sample_rois
from reference_impl.losses import smooth_l1_loss
from reference_impl.measure import (
    boxes_per_cell,
    boxes_per_class,
    boxes_per_iou_bin,
    boxes_per_level,
    boxes_per_octave,
    boxes_per_pixel,
    effective_number,
    foreground_background,
    shares,
)
from reference_impl.ops.boxes import box_iou, encode_deltas
from reference_impl.pyramids import roi_level
from tools import scenes
from tools.anchoring import SCALE, squares, trained
from tools.catalog import load
from tools.charts import Axis, Series, bar_chart, line_chart, scene
from tools.simulation import ALL_POINTS, BoxLoss, box_losses, simulate

CLASSES = 80
POSITIVE = 0.5
POINTS = 4


def _boxes(*rows: Sequence[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@dataclass(frozen=True)
class LossRow:
    """A regression loss on several boxes: the loss of each, each one's share, and how many boxes that amounts to."""

    id: str
    values: list[float]
    shares: list[float]
    effective: float


@dataclass(frozen=True)
class Figure11:
    picture: Markup
    ious: list[float]
    rows: list[LossRow]


def figure_11(losses: dict[str, BoxLoss]) -> Figure11:
    """Three predictions of one object, from good to bad, and the loss of each."""
    truth = _boxes([3, 2, 9, 8])
    guesses = _boxes([3.5, 2.5, 9.5, 8.5], [4, 3.5, 10.5, 9], [6, 4, 14, 9.5])
    looks = ["positive", "negative", "third"]
    picture = scene(
        [(truth[0].tolist(), "truth"), *zip(guesses.tolist(), looks, strict=True)], (16, 11), label="An object and three predictions of it"
    )
    rows = []
    for id, loss in losses.items():
        values = loss(guesses, truth.expand(3, 4))
        rows.append(LossRow(id, values.tolist(), shares(values).tolist(), effective_number(values).item()))
    return Figure11(picture, box_iou(guesses, truth).tolist(), rows)


@dataclass(frozen=True)
class Stage:
    """The boxes that enter a stage of a cascade, or leave the last: how their IoUs are distributed."""

    name: str
    mean: float
    above: list[float]
    effective: float
    chart: Markup


@dataclass(frozen=True)
class Figure12:
    steps: int
    stages: list[Stage]


STEPS, GUIDED_STEPS, BINS = 60, 30, 20
THRESHOLDS = (0.5, 0.6, 0.7)


def figure_12() -> Figure12:
    """A small Cascade R-CNN, trained while the page is built, on rectangles in feature maps: IoUs before and after each stage.

    The boxes are those of scenes that it was not trained on.
    """
    torch.manual_seed(0)
    cascade = CascadeRCNN(scenes.CLASSES, scenes.CLASSES, width=32, scale=1 / scenes.STRIDE)
    optimiser = torch.optim.Adam(cascade.parameters(), lr=3e-3)
    for step in range(STEPS):
        features, boxes, labels = scenes.painted(8, seed=step % 4)
        rois, chosen = sample_rois(scenes.jittered(boxes, each=20, seed=step % 4), boxes, size=32)
        losses = cascade.loss(cascade([features], rois[:, :32], boxes), chosen[:, :32], boxes, labels)
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    features, boxes, _ = scenes.painted(32, seed=99)
    with torch.no_grad():
        _, _, entering = cascade([features], scenes.jittered(boxes, each=20, seed=99))
    ious = box_iou(entering[:, :, :, None], boxes[:, None, None]).amax(-1)
    names = ["the proposals", *(f"after stage {k + 1}" for k in range(ious.shape[1] - 1))]
    return Figure12(STEPS, _stages(dict(zip(names, ious.movedim(1, 0).flatten(1), strict=True))))


def guided_anchors_of_scenes() -> Figure12:
    """The same for guided anchoring: the squares of a grid, and the anchors that take their place."""
    detector = trained(GUIDED_STEPS)
    features, boxes, _ = scenes.painted(32, seed=99)
    with torch.no_grad():
        anchors, _, kept, _, _ = detector(features)
    places = squares(2 * scenes.STRIDE, scale=SCALE).expand_as(anchors)
    before, after = (box_iou(x[:, :, None], boxes[:, None]).amax(-1) for x in (places, anchors))
    return Figure12(GUIDED_STEPS, _stages({"a square in each cell": before.flatten(), "guided anchors": after[kept]}))


def _stages(ious: dict[str, Tensor]) -> list[Stage]:
    """Of the boxes of each stage, the IoU with the object that they fit best."""
    shares_of = {name: (boxes_per_iou_bin(x, x >= 0, lowest=0.0, bins=BINS) / x.numel()).tolist() for name, x in ious.items()}
    middles = [(k + 0.5) / BINS for k in range(BINS)]
    stages = []
    for name, x in ious.items():
        series = [*(Series(values, "other") for other, values in shares_of.items() if other != name), Series(shares_of[name], "main")]
        chart = line_chart(Axis("IoU", 0, 1), middles, series, clip=1, label=name)
        positive = boxes_per_iou_bin(x, x >= POSITIVE, bins=BINS // 2)
        above = [(x >= u).double().mean().item() for u in THRESHOLDS]
        stages.append(Stage(name, x.mean().item(), above, effective_number(positive).item(), chart))
    return stages


@dataclass(frozen=True)
class Figure15:
    negatives: Markup
    positives: Markup
    counts: Markup
    lowest: int
    highest: int
    effective: float
    pixels: int


def figure_15() -> Figure15:
    """Four negatives and two positives on a grid: how often each pixel is trained on."""
    size = 12
    truth = [4.0, 4.0, 9.0, 9.0]
    negatives = _boxes([0, 1, 6, 6], [1, 0, 7, 7], [2, 3, 7, 12], [5, 5, 12, 7])
    positives = _boxes([3, 4, 8, 9], [4, 3, 9, 9])
    boxes = torch.cat((negatives, positives))
    counts = boxes_per_pixel(boxes, torch.ones(len(boxes), dtype=torch.bool), height=size, width=size)
    frame = (size, size)
    return Figure15(
        scene([(truth, "truth"), *((b, "negative") for b in negatives.tolist())], frame, label="Four negative boxes"),
        scene([(truth, "truth"), *((b, "positive") for b in positives.tolist())], frame, label="Two positive boxes"),
        scene([(truth, "truth")], frame, label="How many boxes cover each pixel", cells=counts.tolist()),
        int(counts.min()),
        int(counts.max()),
        effective_number(counts.flatten()).item(),
        size * size,
    )


@dataclass(frozen=True)
class Figure16:
    picture: Markup
    bars: Markup
    classification: float
    regression: float
    regression_scaled: float


def figure_16() -> Figure16:
    """32 positives around one object: what classification and regression cost before anything is learnt."""
    draw = torch.Generator().manual_seed(16)
    truth = _boxes([120, 80, 280, 200]).expand(32, 4)
    wanted = iou_quantile(torch.rand(32, generator=draw, dtype=torch.float64))
    boxes = bounding_box_generator(truth, wanted, torch.rand(32, 5, generator=draw, dtype=torch.float64))
    logits = torch.zeros(32, CLASSES + 1, dtype=torch.float64)
    classification = cross_entropy(logits, torch.zeros(32, dtype=torch.int64)).item()
    deltas = encode_deltas(truth, boxes)
    regression = smooth_l1_loss(torch.zeros_like(deltas), deltas).sum(-1).mean().item()
    scaled = deltas / deltas.new_tensor([0.1, 0.1, 0.2, 0.2])
    regression_scaled = smooth_l1_loss(torch.zeros_like(scaled), scaled).sum(-1).mean().item()
    picture = scene([*((b, "positive") for b in boxes.tolist()), (truth[0].tolist(), "truth")], (400, 280), label="32 generated positives")
    bars = [
        ("classification", classification, "main"),
        ("regression", regression, "other"),
        ("in units of 0.1, 0.2", regression_scaled, "other"),
    ]
    return Figure16(picture, bar_chart(bars, label="Losses at initialisation"), classification, regression, regression_scaled)


@dataclass(frozen=True)
class Stop:
    """A place along the way of the sliding box."""

    offset: float
    iou: float
    positive: bool
    picture: Markup
    effective: list[float]


@dataclass(frozen=True)
class Figure18:
    stops: list[Stop]
    imbalances: list[tuple[str, str, int, Markup]]
    losses: list[tuple[str, Markup]]


TRUTH = [120.0, 60.0, 280.0, 220.0]
STILL = [[150.0, 80.0, 300.0, 210.0], [330.0, 40.0, 390.0, 100.0], [20.0, 150.0, 90.0, 230.0]]
SLIDER = [110.0, 55.0, 290.0, 225.0]
SECOND_TRUTH, SECOND = [30.0, 20.0, 90.0, 80.0], [36.0, 24.0, 96.0, 84.0]
IMAGE = (420.0, 260.0)
IMBALANCES = [
    ("foreground_background", "foreground and background", 2),
    ("foreground_foreground", "classes of the positives", 2),
    ("object_scale", "octaves of size", 6),
    ("feature_level", "pyramid levels", 4),
    ("regression_loss", "boxes in the smooth L1 loss", 3),
    ("iou_distribution", "IoU bins", 5),
    ("object_location", "cells of the image", 16),
    ("objective", "tasks in the total loss", 2),
]


def figure_18(losses: dict[str, BoxLoss]) -> Figure18:
    """A box slides to the right off its object: the eight imbalances and every loss along the way.

    There are three positives, of two objects, and two negatives; one of the positives moves until its IoU is below 0.5.
    """
    offset = torch.linspace(0, 150, 61, dtype=torch.float64)
    still = _boxes(STILL[0], SECOND, *STILL[1:]).expand(len(offset), 4, 4)
    slider = _boxes(SLIDER) + offset[:, None] * _boxes([1, 0, 1, 0])
    boxes = torch.cat((slider[:, None], still), 1)
    truths = _boxes(TRUTH, TRUTH, SECOND_TRUTH, TRUTH, TRUTH).expand_as(boxes)
    iou = box_iou(boxes, truths)
    positive = iou >= 0.5
    effective = [effective_number(counts).tolist() for counts in _distributions(boxes, truths, iou, positive)]
    change = int(positive[:, 0].sum())
    axis, xs = Axis("offset in pixels", 0, 150), offset.tolist()
    charts = [
        (id, name, most, line_chart(axis, xs, [Series(values, "main")], clip=20, label=f"Effective number of {name}"))
        for (id, name, most), values in zip(IMBALANCES, effective, strict=True)
    ]
    target = _boxes(TRUTH).expand_as(slider)
    curves = [
        (id, line_chart(axis, xs, [Series(loss(slider, target).tolist(), "main", id)], clip=1e6, label=f"{id} along the way"))
        for id, loss in losses.items()
    ]
    stops = [
        Stop(xs[k], iou[k, 0].item(), bool(positive[k, 0]), _picture(boxes[k], positive[k]), [values[k] for values in effective])
        for k in (0, change - 4, change)
    ]
    return Figure18(stops, charts, curves)


def _distributions(boxes: Tensor, truths: Tensor, iou: Tensor, positive: Tensor) -> list[Tensor]:
    """For each place of the slider, how the boxes are distributed, in the order of `IMBALANCES`."""
    labels = torch.where(positive, torch.tensor([0, 0, 1, 0, 0]), 2)
    deltas = encode_deltas(truths, boxes)
    regression = torch.where(positive, smooth_l1_loss(torch.zeros_like(deltas), deltas).sum(-1), 0)
    classification = torch.full_like(regression, math.log(CLASSES + 1))
    return [
        foreground_background(labels, torch.ones_like(positive), classes=2),
        boxes_per_class(labels, positive, classes=2),
        boxes_per_octave(boxes, positive),
        boxes_per_level(roi_level(boxes), positive),
        regression,
        boxes_per_iou_bin(iou, positive, bins=5),
        boxes_per_cell(boxes, positive, boxes.new_tensor(IMAGE).expand(len(boxes), 2)),
        torch.stack((classification.sum(-1), regression.sum(-1)), -1),
    ]


def _picture(boxes: Tensor, positive: Tensor) -> Markup:
    looks = ["positive" if p else "negative" for p in positive.tolist()]
    return scene(
        [*zip(boxes.tolist(), looks, strict=True), (TRUTH, "truth"), (SECOND_TRUTH, "truth")], IMAGE, label="Boxes and their objects"
    )


@dataclass(frozen=True)
class Course:
    """How a loss fared in the regression simulation."""

    id: str
    errors: list[tuple[int, float]]
    done: float
    apart: float
    chart: Markup


@dataclass(frozen=True)
class Simulation:
    cases: int
    all_cases: int
    start: float
    courses: list[Course]


def simulation(losses: dict[str, BoxLoss]) -> Simulation:
    """The regression simulation of DIoU's authors, at fewer points, for every loss."""
    runs = {id: simulate(loss, POINTS) for id, loss in losses.items()}
    steps = list(range(201))
    others = {id: Series(run.errors, "other", id) for id, run in runs.items()}
    courses = []
    for id, run in runs.items():
        series = [*(s for other, s in others.items() if other != id), Series(run.errors, "main", id)]
        chart = line_chart(Axis("step", 0, 200), steps, series, clip=8, label=f"Mean error under {id}")
        courses.append(Course(id, [(k, run.errors[k]) for k in (20, 80, 160, 200)], run.done, run.apart, chart))
    start = next(iter(runs.values())).errors[0]
    return Simulation(343 * POINTS, 343 * ALL_POINTS, start, sorted(courses, key=lambda course: course.errors[-1][1]))


@dataclass(frozen=True)
class Figures:
    eleven: Figure11
    twelve: Figure12
    guided: Figure12
    fifteen: Figure15
    sixteen: Figure16
    eighteen: Figure18
    simulation: Simulation
    thresholds: Sequence[float] = THRESHOLDS


def figures(root: Path) -> Figures:
    """Of the catalog under `root`."""
    catalog = load(root)
    losses = box_losses(catalog)
    on_corners = box_losses(catalog, coordinates=lambda boxes: boxes)
    return Figures(
        figure_11(on_corners),
        figure_12(),
        guided_anchors_of_scenes(),
        figure_15(),
        figure_16(),
        figure_18(losses),
        simulation(losses),
    )
