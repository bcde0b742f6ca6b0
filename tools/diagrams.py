"""The graph of a module as a drawing: what it computed, traced, one row for each resolution, from what it is given to what it returns."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from markupsafe import Markup, escape
from torch import Tensor
from torch.utils._pytree import tree_leaves

from reference_impl.measure import Graph, Node, trace
from tools.golden import parameters, resolve, tensor_annotation
from tools.records import Drawing

COLUMN, ROW, NODE, LETTER = 52, 30, (36, 20), 5.5
LEFT, TOP = 34, 22

SYMBOLS = {
    "add": "+",
    "sub": "−",
    "mul": "×",
    "div": "÷",
    "cat": "cat",
    "maximum": "max",
    "upsample_nearest2d": "up",
    "upsample_bilinear2d": "up",
    "_upsample_bilinear2d_aa": "up",
    "pixel_shuffle": "shuffle",
    "grid_sampler_2d": "sample",
    "addmm": "fc",
    "mm": "fc",
    "bmm": "att",
    "_softmax": "softmax",
    "sum": "sum",
    "stack": "stack",
    "where": "pick",
    "gather": "pick",
    "roi_align": "RoI",
    "deformable_conv": "deform",
}
ALONE = {"addmm", "mm", "bmm", "upsample_nearest2d", "upsample_bilinear2d", "_upsample_bilinear2d_aa", "pixel_shuffle", "deformable_conv"}
LAYERS = {"convolution", "addmm", "mm", "deformable_conv"}
MAP = 4
POOLS = {"max": "max", "avg": "avg", "mean": "avg", "amax": "max"}


@dataclass(frozen=True)
class Box:
    """A drawn node: where it stands, what is written on it, and the nodes that it is joined to."""

    column: int
    row: int
    label: str
    sources: tuple[int, ...]
    kind: str


def drawn(id: str, drawing: Drawing) -> Markup:
    """The SVG of a module of the method `id`, traced without memory for its tensors.

    Raises:
        ValueError: fewer outputs than names depend on what is given.
    """
    cls = resolve(id, drawing.call)
    given: dict[str, Any] = {}
    names: list[str] = []
    with torch.device("meta"):
        module = cls(**drawing.init).eval()
        for argument, value in drawing.given.items():
            if isinstance(value, dict):
                tensors = [torch.empty(shape) for shape in value.values()]
                given[argument] = tensors[0] if tensor_annotation(parameters(cls)[argument].annotation) else tensors
                names += value
            else:
                given[argument] = value
        graph = trace(lambda _: tree_leaves(module(**given)), [x for x in tree_leaves(given) if isinstance(x, Tensor)])
    if len(graph.outputs) < len(drawing.outputs):
        raise ValueError(f"{len(graph.outputs)} outputs depend on what is given; {len(drawing.outputs)} have a name")
    return diagram(graph, names, drawing.outputs)


def diagram(graph: Graph, names: Sequence[str], outputs: Sequence[str]) -> Markup:
    """The SVG of `graph`.

    Args:
        names: of the inputs, as C2.
        outputs: of the first outputs; what leads to others only is not drawn.
    """
    boxes = _boxes(graph, names, outputs)
    places = _places(boxes)
    width = LEFT * 2 + COLUMN * max(b.column for b in boxes.values())
    height = TOP * 2 + max(y for _, y in places.values())
    lines, shapes = [], []
    for i, box in boxes.items():
        x, y = places[i]
        for s in box.sources:
            lines.append(_line(*places[s], x, y))
        w, h = max(NODE[0], LETTER * len(box.label) + 8), NODE[1]
        shapes.append(
            f'<g class="{box.kind}"><rect x="{x - w / 2:g}" y="{y - h / 2:g}" width="{w}" height="{h}" rx="3"/>'
            f'<text x="{x:g}" y="{y + 4:g}">{escape(box.label)}</text></g>'
        )
    content = "".join(lines + shapes)
    return Markup(
        f'<svg class="diagram" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="Graph from {escape(", ".join(names))} to {escape(", ".join(outputs))}">{content}</svg>'
    )


def _boxes(graph: Graph, names: Sequence[str], outputs: Sequence[str]) -> dict[int, Box]:
    """What is drawn: activations, normalisations and changes of shape are part of the box before them.

    A map stands in the row of its resolution; what has none, or is pooled from boxes, in that of what it is made from.
    """
    maps = [node for node in graph.nodes[: graph.inputs] if _is_map(node)]
    finest = max((node.shape[-2] for node in maps), default=1)
    beneath = 1 + max((_row(node, finest) for node in maps), default=0)
    stands_for: dict[int, int] = {}
    boxes: dict[int, Box] = {}
    pooled: set[int] = set()
    for i, node in enumerate(graph.nodes):
        sources = tuple(dict.fromkeys(stands_for[s] for s in node.sources))
        label = names[i] if i < graph.inputs else _label(node, graph, sources)
        if label is None:
            stands_for[i] = sources[0]
            continue
        stands_for[i] = i
        column = 1 + max((boxes[s].column for s in sources), default=-1)
        if len(node.shape) > MAP or node.op == "roi_align" or not pooled.isdisjoint(sources):
            pooled.add(i)
        if i < graph.inputs:
            row = _row(node, finest) if _is_map(node) else 0 if i in pooled else beneath
        elif _is_map(node) and node.shape[-2] > 1 and i not in pooled:
            row = _row(node, finest)
        else:
            row = sorted(boxes[s].row for s in sources)[(len(sources) - 1) // 2]
        kind = "input" if i < graph.inputs else "layer" if node.op in LAYERS else "join"
        boxes[i] = Box(column, row, label, sources, kind)
    last = 1 + max(box.column for box in boxes.values())
    for j, (output, name) in enumerate(zip(graph.outputs, outputs, strict=False)):
        source, node = stands_for[output], graph.nodes[output]
        row = _row(node, finest) if _is_map(node) and source not in pooled else boxes[source].row
        boxes[len(graph.nodes) + j] = Box(last, row, name, (source,), "output")
    return _late(boxes, last)


def _is_map(node: Node) -> bool:
    return len(node.shape) == MAP


def _row(node: Node, finest: int) -> int:
    """How many times a map is half as high as the finest one."""
    return round(math.log2(finest / node.shape[-2]))


def _late(boxes: dict[int, Box], last: int) -> dict[int, Box]:
    """The boxes from which an end is reached, each but the inputs as far to the right as what follows allows."""
    before = {i: last for i, box in boxes.items() if box.kind == "output"}
    for i in sorted(boxes, reverse=True):
        if i in before:
            for s in boxes[i].sources:
                before[s] = min(before.get(s, last), before[i] - 1)
    kept = {i: box for i, box in boxes.items() if i in before or box.kind == "input"}
    return {i: box if box.kind == "input" else replace(box, column=before[i]) for i, box in kept.items()}


def _label(node: Node, graph: Graph, sources: tuple[int, ...]) -> str | None:
    """What is written on a box, or None for what is not drawn."""
    if node.op == "convolution" and node.weights:
        given, made, kernel = graph.nodes[node.sources[0]].shape, node.shape, node.weights[0]
        size = "×".join(map(str, kernel[2:]))
        if made[-1] > given[-1] + 1:
            return f"{size} ↑"
        return f"{size} ↓" if made[-1] <= given[-1] // 2 + 1 < given[-1] else size
    pool = next((symbol for name, symbol in POOLS.items() if name in node.op and node.op not in SYMBOLS), None)
    if pool:
        return pool if len(node.shape) == 4 and node.shape[-1] > 1 else f"g {pool}"
    return SYMBOLS.get(node.op, node.op) if len(sources) > 1 or node.op in ALONE else None


def _places(boxes: dict[int, Box]) -> dict[int, tuple[float, float]]:
    """Centres: boxes of the same column and row stand below each other, and a row is as high as it needs."""
    stacked: Counter[tuple[int, int]] = Counter()
    depth = {}
    for i, box in boxes.items():
        depth[i] = stacked[box.column, box.row]
        stacked[box.column, box.row] += 1
    rows = sorted({box.row for box in boxes.values()})
    start, y = {}, 0.0
    for row in rows:
        start[row] = y
        y += ROW * max(n for (_, r), n in stacked.items() if r == row) + 8
    return {i: (LEFT + COLUMN * box.column, TOP + start[box.row] + ROW * depth[i]) for i, box in boxes.items()}


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    """An edge, from the right of one box to the left of another; `up` leads to a coarser level, `down` to a finer one."""
    way = "down" if y2 < y1 else "up" if y2 > y1 else "level"
    x1, x2 = x1 + NODE[0] / 2, x2 - NODE[0] / 2
    bend = max(8, (x2 - x1) / 3)
    far = y1 == y2 and x2 - x1 > COLUMN
    if far:
        lift = 14 + 2 * min(7, (x2 - x1) // COLUMN)
        return f'<path class="{way}" d="M{x1:g} {y1:g}C{x1 + 14:g} {y1 - lift:g} {x2 - 14:g} {y2 - lift:g} {x2:g} {y2:g}"/>'
    return f'<path class="{way}" d="M{x1:g} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}"/>'
