"""Every pyramid beside FPN: forward and backward at its paper's width on the levels of one image, time and peak memory."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tools.assemble import BACKBONE, assemble
from tools.bench.measure import most_held
from tools.catalog import Catalog

IMAGE = (200, 336)
REPETITIONS = 3
FIRST = "pyramids.fpn"
# By default, inductor converts the layout of convolutions there and back, which takes a third longer than not to compile.
COMPILER: dict[str, str | int | bool | Callable[..., object]] = {"layout_optimization": False}
HEADER = [
    "| Pyramid | ms | of FPN | forward alone, ms | compiled, ms | of eager | peak, MiB | of FPN |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
]

Run = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Figures:
    milliseconds: float
    forward: float
    compiled: float
    mebibytes: float


def rows(catalog: Catalog, names: list[str]) -> Iterator[str]:
    """A row of the table for each pyramid whose id contains one of `names`, for all of them if there are none. FPN is always measured."""
    ids = [id for id, method in catalog.implemented.items() if method.pyramid]
    chosen = [id for id in ids if not names or any(name in id for name in names)]
    first = None
    for id in dict.fromkeys([FIRST, *chosen] if chosen else []):
        f = _measure(catalog, id)
        first = first or f
        yield (
            f"| {id.split('.')[1]} | {f.milliseconds:.0f} | {f.milliseconds / first.milliseconds:.2f} | {f.forward:.0f} | "
            f"{f.compiled:.0f} | {f.compiled / f.milliseconds:.2f} | {f.mebibytes:.0f} | {f.mebibytes / first.mebibytes:.2f} |"
        )


def _measure(catalog: Catalog, id: str) -> Figures:
    torch.manual_seed(0)
    module = assemble(catalog, id).eval()
    assembly = catalog.implemented[id].pyramid
    assert assembly
    levels = [torch.randn(1, BACKBONE[b][0], *(-(-side // BACKBONE[b][1]) for side in IMAGE)).requires_grad_() for b in assembly.backbone]
    learnt = [*levels, *module.parameters()]
    compiled = torch.compile(module, dynamic=False, options=COMPILER)
    _seconds(compiled, levels, learnt)
    both, forward, fused = (
        1000 * statistics.median(_seconds(run, levels, wanted) for _ in range(REPETITIONS))
        for run, wanted in ((module, learnt), (module, []), (compiled, learnt))
    )
    return Figures(both, forward, fused, _peak(module, levels, learnt) / 2**20)


def _seconds(run: Run, levels: list[Tensor], learnt: list[Tensor]) -> float:
    """Of the processor's time, for a forward and, if anything is to be learnt, a backward."""
    start = time.process_time()
    _once(run, levels, learnt)
    return time.process_time() - start


def _once(run: Run, levels: list[Tensor], learnt: list[Tensor]) -> None:
    with torch.set_grad_enabled(bool(learnt)):
        total = torch.stack([x.mean() for x in run(levels)]).sum()
    if learnt:
        torch.autograd.grad(total, learnt, allow_unused=True)


def _peak(run: Run, levels: list[Tensor], learnt: list[Tensor]) -> int:
    """The most bytes that tensors made in a forward and backward hold at one time."""
    return most_held(lambda: _once(run, levels, learnt))
