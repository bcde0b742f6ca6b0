"""The regression simulation at its full size, with each loss and with its plain form."""

import statistics
from collections.abc import Iterator
from functools import partial

from tools.bench.baselines import BASELINES
from tools.bench.measure import Arguments, Function, agree, once, peak
from tools.bench.page import short
from tools.catalog import Catalog
from tools.simulation import ALL_POINTS, RATES, box_losses, cases, corners, descend

ITERATIONS = 3
HEADER = [
    "| Loss | s an iteration | plain, s | s in all, estimate | plain | h case by case, estimate | peak, MiB | of plain |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
]


def rows(catalog: Catalog, names: list[str], points: int = ALL_POINTS) -> Iterator[str]:
    """A row for each loss of boxes that has a plain form, if `simulation` is among `names` or there are none."""
    if names and "simulation" not in names:
        return
    box, target = cases(points)
    every: Arguments = {"box": box, "goal": corners(target), "rate": RATES[0]}
    one: Arguments = {**every, "box": box[:1], "goal": every["goal"][:1]}
    plain_losses = box_losses(catalog, functions=BASELINES.get)
    for id, loss in box_losses(catalog).items():
        if id not in BASELINES:
            continue
        ours, plain = partial(descend, loss), partial(descend, plain_losses[id])
        if not agree(once(ours, every)[1], once(plain, every)[1]):
            raise ValueError(f"{id} and its plain form do not agree")
        seconds, of_plain = _take_turns(ours, plain, every)
        _, alone = _take_turns(ours, plain, one)
        cells = [
            id.split(".")[1],
            *(short(s) for s in (seconds, of_plain)),
            *(short(s * len(RATES)) for s in (seconds, of_plain)),
            short(alone * len(box) * len(RATES) / 3600),
            *(short(peak(step, every) / 2**20, 4) for step in (ours, plain)),
        ]
        yield f"| {' | '.join(cells)} |"


def _take_turns(ours: Function, plain: Function, given: Arguments) -> tuple[float, float]:
    """Median seconds of an iteration of each."""
    seconds = [(once(ours, given)[0], once(plain, given)[0]) for _ in range(ITERATIONS)]
    return statistics.median(a for a, _ in seconds), statistics.median(b for _, b in seconds)
