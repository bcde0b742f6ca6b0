"""The graph of a pyramid as a drawing: what its module computed, traced, one row for each resolution, from the backbone to the pyramid."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

from reference_impl.measure import Graph, Node

COLUMN, ROW, NODE = 52, 30, (36, 20)
LEFT, TOP = 34, 16

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
}
POOLS = {"max": "max", "avg": "avg", "mean": "avg", "amax": "max"}


@dataclass(frozen=True)
class Box:
    """A drawn node: where it stands, what is written on it, and the nodes that it is joined to."""

    column: int
    row: float
    label: str
    sources: tuple[int, ...]
    kind: str


def diagram(graph: Graph, names: Sequence[str], stride: float) -> Markup:
    """The SVG of `graph`.

    Args:
        names: of the inputs, finest first, as C2.
        stride: of the first input, which tells the levels' names.
    """
    finest = graph.nodes[0].shape[-2]
    boxes = _boxes(graph, names, stride * finest, finest)
    places = _places(boxes)
    width = LEFT * 2 + COLUMN * max(b.column for b in boxes.values())
    height = TOP * 2 + max(y for _, y in places.values())
    lines, shapes = [], []
    for i, box in boxes.items():
        x, y = places[i]
        for s in box.sources:
            lines.append(_line(*places[s], x, y))
        w, h = NODE
        shapes.append(
            f'<g class="{box.kind}"><rect x="{x - w / 2:g}" y="{y - h / 2:g}" width="{w}" height="{h}" rx="3"/>'
            f'<text x="{x:g}" y="{y + 4:g}">{escape(box.label)}</text></g>'
        )
    content = "".join(lines + shapes)
    return Markup(
        f'<svg class="diagram" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="Graph from {escape(", ".join(names))} to the pyramid levels">{content}</svg>'
    )


def _boxes(graph: Graph, names: Sequence[str], image: float, finest: int) -> dict[int, Box]:
    """What is drawn: activations, normalisations and changes of shape are part of the box before them."""
    stands_for: dict[int, int] = {}
    boxes: dict[int, Box] = {}
    for i, node in enumerate(graph.nodes):
        sources = tuple(dict.fromkeys(stands_for[s] for s in node.sources))
        label = names[i] if i < graph.inputs else _label(node, graph, sources)
        if label is None:
            stands_for[i] = sources[0]
            continue
        stands_for[i] = i
        column = 1 + max((boxes[s].column for s in sources), default=-1)
        row = math.log2(finest / node.shape[-2]) if len(node.shape) == 4 and node.shape[-2] > 1 else boxes[sources[0]].row
        kind = "input" if i < graph.inputs else "layer" if node.op in ("convolution", "addmm", "mm") else "join"
        boxes[i] = Box(column, round(row), label, sources, kind)
    last = 1 + max(box.column for box in boxes.values())
    ends = [(len(graph.nodes) + j, stands_for[output], graph.nodes[output].shape[-2]) for j, output in enumerate(graph.outputs)]
    for i, source, size in ends:
        level = math.log2(image / size)
        boxes[i] = Box(last, round(math.log2(finest / size)), f"P{round(level)}", (source,), "output")
    return _late(boxes, last)


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
    if node.op in SYMBOLS and (len(sources) > 1 or node.op in ("addmm", "mm", "bmm") or node.op.startswith(("up", "_up", "pixel"))):
        return SYMBOLS[node.op]
    return None


def _places(boxes: dict[int, Box]) -> dict[int, tuple[float, float]]:
    """Centres: boxes of the same column and row stand below each other, and a row is as high as it needs."""
    stacked: Counter[tuple[int, float]] = Counter()
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
        return f'<path class="{way}" d="M{x1:g} {y1:g}C{x1 + 14:g} {y1 - 16:g} {x2 - 14:g} {y2 - 16:g} {x2:g} {y2:g}"/>'
    return f'<path class="{way}" d="M{x1:g} {y1:g}C{x1 + bend:g} {y1:g} {x2 - bend:g} {y2:g} {x2:g} {y2:g}"/>'
