"""Every pyramid beside FPN: forward and backward at its paper's width on the levels of one image, time and peak memory."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tools.assemble import BACKBONE, assemble
from tools.catalog import Catalog

IMAGE = (400, 672)
REPETITIONS = 3
FIRST = "pyramids.fpn"
HEADER = [
    "| | ms | of FPN | forward alone, ms | compiled, ms | peak, MiB | of FPN |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
]
# Compiling the others takes minutes.
COMPILED = {"pyramids.fpn", "pyramids.path_aggregation", "pyramids.balanced_feature_pyramid", "pyramids.augfpn"}

Run = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Figures:
    milliseconds: float
    forward: float
    compiled: float | None
    mebibytes: float


def rows(catalog: Catalog, names: list[str]) -> list[str]:
    """A row of the table for each pyramid whose id contains one of `names`, for all of them if there are none. FPN is always measured."""
    ids = [id for id, method in catalog.implemented.items() if method.pyramid]
    chosen = [id for id in ids if not names or any(name in id for name in names)]
    if not chosen:
        return []
    found = {id: _measure(catalog, id) for id in dict.fromkeys([FIRST, *chosen])}
    first = found[FIRST]
    return [
        f"| {id.split('.')[1]} | {f.milliseconds:.0f} | {f.milliseconds / first.milliseconds:.2f} | {f.forward:.0f} | "
        f"{f'{f.compiled:.0f}' if f.compiled else ''} | {f.mebibytes:.0f} | {f.mebibytes / first.mebibytes:.2f} |"
        for id, f in found.items()
    ]


def _measure(catalog: Catalog, id: str) -> Figures:
    torch.manual_seed(0)
    module = assemble(catalog, id).eval()
    assembly = catalog.implemented[id].pyramid
    assert assembly
    given = [torch.randn(1, BACKBONE[b][0], *(-(-side // BACKBONE[b][1]) for side in IMAGE)).requires_grad_() for b in assembly.backbone]
    forward = statistics.median(_seconds(module, given, backward=False) for _ in range(REPETITIONS))
    both = statistics.median(_seconds(module, given, backward=True) for _ in range(REPETITIONS))
    compiled = None
    if id in COMPILED:
        faster = torch.compile(module, dynamic=False)
        _seconds(faster, given, backward=True)
        compiled = 1000 * statistics.median(_seconds(faster, given, backward=True) for _ in range(REPETITIONS))
    return Figures(1000 * both, 1000 * forward, compiled, _peak(module, given) / 2**20)


def _seconds(run: Run, given: list[Tensor], *, backward: bool) -> float:
    """Of the processor's time."""
    start = time.process_time()
    _once(run, given, backward=backward)
    return time.process_time() - start


def _once(run: Run, given: list[Tensor], *, backward: bool) -> None:
    with torch.set_grad_enabled(backward):
        total = torch.stack([x.mean() for x in run(given)]).sum()
    if backward:
        torch.autograd.grad(total, given)


def _peak(run: Run, given: list[Tensor]) -> int:
    """The most bytes that tensors made in a forward and backward hold at one time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        _once(run, given, backward=True)
    return most_held(profile)


def most_held(profile: torch.profiler.profile) -> int:
    """The largest sum of the memory events of a run."""
    held = most = 0
    results: Any = profile.profiler and profile.profiler.kineto_results
    events = [e for e in results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
