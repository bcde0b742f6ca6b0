"""Charts as SVG in the page's own colours."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT, MARGIN, RIGHT = 420, 260, 36, 14
OCTAVES = [0.2, 0.5, 1.0, 2.0, 5.0]


@dataclass(frozen=True)
class Axis:
    """What runs along a chart: its label, its ends, and whether it is logarithmic."""

    label: str
    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value stands, from 0 to 1."""
        a, b, v = (math.log(self.low), math.log(self.high), math.log(value)) if self.log else (self.low, self.high, value)
        return (v - a) / (b - a)

    @property
    def ticks(self) -> list[float]:
        if self.log:
            return [v for v in OCTAVES if self.low <= v <= self.high]
        return [t for t in nice_ticks(self.low, self.high) if self.low <= t <= self.high]


@dataclass(frozen=True)
class Series:
    """One line: its values along the axis, its look (`main`, `other` or `baseline`), and the method that it is of."""

    values: Sequence[float]
    look: str = "other"
    method: str = ""


def line_chart(axis: Axis, xs: Sequence[float], series: Sequence[Series], *, clip: float, label: str) -> Markup:
    """Lines over a common axis; what lies beyond `clip` does not stretch the chart.

    Args:
        label: of the chart as a whole, for those who do not see it.
    """
    inside = [v for s in series for v in s.values if abs(v) <= clip]
    low, high = min(inside, default=0.0), max(inside, default=1.0)
    low, high = min(low, 0.0), max(high, 0.0) if high > low else low + 1
    ticks = nice_ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    def across(v: float) -> float:
        return MARGIN + axis.place(v) * (WIDTH - MARGIN - RIGHT)

    def up(v: float) -> float:
        return 10 + (high - v) / (high - low) * (HEIGHT - 10 - MARGIN)

    parts = [f'<line class="grid" x1="{MARGIN}" x2="{WIDTH - RIGHT}" y1="{up(t):.1f}" y2="{up(t):.1f}"/>' for t in ticks]
    parts += [f'<text x="{MARGIN - 6}" y="{up(t) + 4:.1f}" text-anchor="end">{number(t)}</text>' for t in ticks]
    parts += [f'<text x="{across(c):.1f}" y="{HEIGHT - MARGIN + 16}" text-anchor="middle">{number(c)}</text>' for c in axis.ticks]
    parts.append(f'<text class="axis" x="{(WIDTH + MARGIN) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(axis.label)}</text>')
    places = [across(v) for v in xs]
    parts += [f'<path class="{s.look}" data-method="{escape(s.method)}" d="{_path(places, s.values, up, low, high)}"/>' for s in series]
    return Markup(f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>')


def _path(xs: Sequence[float], ys: Sequence[float], up: Callable[[float], float], low: float, high: float) -> str:
    """A polyline, lifted where it leaves the panel."""
    room = 0.02 * (high - low)
    text, pen = "", "M"
    for x, y in zip(xs, ys, strict=True):
        if not low - room <= y <= high + room:
            pen = "M"
            continue
        text += f"{pen}{x:.1f} {up(y):.1f}"
        pen = "L"
    return text


def bar_chart(bars: Sequence[tuple[str, float, str]], *, label: str) -> Markup:
    """Upright bars: what is written below each, its height, and its look (`main` or `other`)."""
    top = max((height for _, height, _ in bars), default=1.0) or 1.0
    step = (WIDTH - 16) / max(1, len(bars))
    parts = []
    for i, (name, height, look) in enumerate(bars):
        x, y = 8 + i * step, 20 + (1 - height / top) * (HEIGHT - 20 - MARGIN)
        parts.append(
            f'<rect class="{look}" x="{x + step * 0.12:.1f}" y="{y:.1f}" width="{step * 0.76:.1f}" height="{HEIGHT - MARGIN - y:.1f}"/>'
        )
        parts.append(f'<text x="{x + step / 2:.1f}" y="{y - 5:.1f}" text-anchor="middle">{number(round(height, 2))}</text>')
        parts.append(f'<text x="{x + step / 2:.1f}" y="{HEIGHT - MARGIN + 16}" text-anchor="middle">{escape(name)}</text>')
    return Markup(f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>')


def scene(
    boxes: Sequence[tuple[Sequence[float], str]], size: tuple[float, float], *, label: str, cells: Sequence[Sequence[int]] | None = None
) -> Markup:
    """Boxes in an image, over a grid with a number in each cell if given.

    Args:
        boxes: corners and look of each: `truth`, `positive`, `negative` or `third`.
    """
    width, height = size
    unit = WIDTH / width
    parts = []
    if cells:
        top = max(max(row) for row in cells) or 1
        for y, row in enumerate(cells):
            for x, count in enumerate(row):
                corner = f'x="{x * unit:.1f}" y="{y * unit:.1f}" width="{unit:.1f}" height="{unit:.1f}"'
                parts.append(
                    f'<rect class="cell" style="--v:{count / top:.2f}" {corner}/>'
                    f'<text x="{(x + 0.5) * unit:.1f}" y="{(y + 0.5) * unit + 4:.1f}" text-anchor="middle">{count or ""}</text>'
                )
    for (x1, y1, x2, y2), look in boxes:
        corner = f'x="{x1 * unit:.1f}" y="{y1 * unit:.1f}" width="{(x2 - x1) * unit:.1f}" height="{(y2 - y1) * unit:.1f}"'
        parts.append(f'<rect class="box {look}" {corner}/>')
    frame = f'<rect class="frame" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height * unit - 1:.1f}"/>'
    content, view = "".join(parts) + frame, f"0 0 {WIDTH} {height * unit:.0f}"
    return Markup(f'<svg class="plot scene" viewBox="{view}" role="img" aria-label="{escape(label)}">{content}</svg>')


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover `low` to `high`."""
    span = (high - low) / count
    power = 10.0 ** math.floor(math.log10(span))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def number(v: float) -> str:
    return f"{v:g}".replace("-", "−")
