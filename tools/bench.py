"""The implementations beside the straightforward form: time and memory, forward and backward, at the size of a detector and at a small one.

`python -m tools bench` measures everything and rewrites the table of docs/benchmarks.md; with names, it only prints. Each method runs in a
process of its own, once with the allocator as it is and once with one that keeps the memory it has, since much of the time of a large
tensor's first use is spent on getting its pages. The variants of a method take turns, and medians are compared.
"""

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tools import bench_pyramids
from tools.baselines import BASELINES, peers
from tools.catalog import ROOT, load
from tools.golden import parameters, resolve, tensor_annotation

PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- figures: written by `python -m tools bench` -->", "<!-- end of figures -->"
BEGIN_PYRAMIDS, END_PYRAMIDS = "<!-- pyramids: written by `python -m tools bench` -->", "<!-- end of pyramids -->"
ALLOCATORS = {"default": {}, "recycling": {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}}
THREADS = 1
REPETITIONS = 5
LEAST_SECONDS = 0.01
SLOW_SECONDS = 3.0
SMALL = 100
AGREE = 0.999

DIFFERENTIATED = {"logits", "pred", "log_variance", "p_s"}
BOXES = {"a", "b", "anchors", "boxes", "pred", "target"}


@dataclass(frozen=True)
class Case:
    """A function, and the sizes of its dimensions: `large`, and for the check that little input is no slower, `small`."""

    name: str
    id: str
    large: dict[str, int]
    small: dict[str, int] = field(default_factory=dict)
    compiled: bool = True

    @property
    def function(self) -> Callable[..., Any]:
        function: Callable[..., Any] = resolve(self.id)
        return function


def cases() -> list[Case]:
    """Every implemented loss and sampler, and the shared parts that cost most."""
    found = [
        Case("ap_loss, 1 000 positives", "losses.ap_loss", {"n": 101_000, "c": 1, "objects": 1_000}, {"n": SMALL, "c": 1, "objects": 5}),
        Case("ap_loss, 10 000 positives", "losses.ap_loss", {"n": 1_010_000, "c": 1, "objects": 10_000}, compiled=False),
        Case("box_iou of all pairs", "ops.boxes.box_iou", {"m": 100, "n": 200_000}, {"m": 10, "n": SMALL}),
        Case("match", "ops.matching.match", {"n": 200_000, "m": 1_000}, {"n": SMALL, "m": 10}, compiled=False),
    ]
    for id in load().implemented:
        kind, name = id.split(".")
        if kind in ("losses", "sampling") and id != "losses.ap_loss" and id in BASELINES:
            arguments = parameters(resolve(id))
            of_logits = "logits" in arguments and "labels" in arguments
            n = 200_000 if of_logits or kind == "sampling" else 100_000
            sizes = {"c": 80, "bins": 17, "objects": 50}
            found.append(Case(name, id, {**sizes, "n": n, "objects": n // 50}, {**sizes, "n": SMALL, "objects": 2}))
    return found


# Arguments


def arguments(case: Case, sizes: dict[str, int]) -> dict[str, Tensor]:
    """Tensors for all arguments that have no default, and for the random numbers, so that every variant draws the same."""
    torch.manual_seed(0)
    if case.id == "ops.boxes.box_iou":
        return {"a": _boxes(sizes["m"])[:, None], "b": _boxes(sizes["n"])[None]}
    found: dict[str, Tensor] = {}
    role = torch.randperm(sizes["n"])
    for name, parameter in parameters(case.function).items():
        annotation = tensor_annotation(parameter.annotation)
        if annotation is None or (parameter.default is not parameter.empty and "noise" not in name):
            continue
        dims = [dim for dim in annotation.dim_str.split() if dim not in ("*batch", "*#batch")]
        shape = (sizes["n"], 4) if dims in (["*n"], ["4"]) else tuple(int(dim) if dim.isdigit() else sizes[dim] for dim in dims)
        found[name] = _tensor(name, annotation, shape, sizes, role)
    if "pred" in found:
        found["pred"] = found["target"] + torch.randn_like(found["target"])
    return {name: x.requires_grad_(name in DIFFERENTIATED and case.id.startswith("losses.")) for name, x in found.items()}


def _tensor(name: str, annotation: Any, shape: tuple[int, ...], sizes: dict[str, int], role: Tensor) -> Tensor:
    objects = sizes.get("objects", 0)
    if annotation.dtype is Bool:
        return {"positive": role < objects, "negative": role >= 2 * objects}.get(name, torch.ones(shape, dtype=torch.bool))
    if annotation.dtype is Int:
        return torch.where(role < objects, torch.randint(sizes["c"], shape), sizes["c"])
    if name in BOXES and shape[-1:] == (4,):
        return _boxes(shape[0])
    if name == "target":
        return (sizes["bins"] - 1) * torch.rand(shape)
    if name == "logits":
        return 2 * torch.randn(shape) - 3
    if name == "frequency":
        return 0.005 * torch.rand(shape)
    return torch.rand(shape)


def _boxes(n: int) -> Tensor:
    corner = 800 * torch.rand(n, 2)
    return torch.cat((corner, corner + 8 + 200 * torch.rand(n, 2)), -1)


# One case, in a process of its own


def measure(name: str, with_compiler: bool) -> dict[str, Any]:
    """Median milliseconds of each variant at each size; at the large one, the peak of memory in bytes."""
    torch.set_num_threads(THREADS)
    case = next(c for c in cases() if c.name == name)
    found: dict[str, Any] = {}
    for size, sizes in (("small", case.small), ("large", case.large)):
        if not sizes:
            continue
        given = arguments(case, sizes)
        variants = {"plain": BASELINES[case.id], "ours": case.function}
        if case.id in peers():
            found["peer"], variants["peer"] = peers()[case.id]
        if size == "large" and with_compiler and case.compiled:
            variants["compiled"] = torch.compile(case.function, fullgraph=True, dynamic=False)
        found[size] = take_turns(variants, given)
        if size == "large":
            found["peak"] = {key: peak(f, given) for key, f in variants.items() if found[size][key] < 1000 * SLOW_SECONDS}
            found["input"] = sum(x.numel() * x.element_size() for x in given.values())
            found["elements"] = max(x.numel() for x in given.values())
    return found


def take_turns(variants: dict[str, Callable[..., Any]], given: dict[str, Tensor]) -> dict[str, float]:
    """Median milliseconds of each variant, all of which have to agree. What takes very long runs once."""
    expected = None
    times, loops = {}, {}
    for key, function in variants.items():
        result = function(**given).detach().float()
        expected = result if expected is None else expected
        # Rounding may put a value on the other side of an edge, as of a bin.
        if (result.isclose(expected, rtol=1e-3, atol=1e-3).float().mean() < AGREE).item():
            raise ValueError(f"{key} and {next(iter(variants))} do not agree")
        first = once(function, given)
        first = once(function, given) if first < SLOW_SECONDS else first
        loops[key] = int(LEAST_SECONDS / first) + 1
        times[key] = [first]
    for key, function in list(variants.items()) * (REPETITIONS - 1):
        if times[key][0] < SLOW_SECONDS:
            times[key].append(sum(once(function, given) for _ in range(loops[key])) / loops[key])
    return {key: 1000 * statistics.median(t) for key, t in times.items()}


def once(function: Callable[..., Any], given: dict[str, Tensor]) -> float:
    """Seconds of the processor's time for a forward and, where there is one, a backward of the sum."""
    for x in given.values():
        x.grad = None
    start = time.process_time()
    result = function(**given)
    if result.requires_grad:
        result.sum().backward()
    return time.process_time() - start


def peak(function: Callable[..., Any], given: dict[str, Tensor]) -> int:
    """The most bytes that tensors made in a run hold at one time, gradients included, as torch's profiler sees them come and go."""
    for x in given.values():
        x.grad = None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = function(**given)
        if result.requires_grad:
            result.sum().backward()
    return bench_pyramids.most_held(profile)


# All cases


def bench(names: list[str]) -> int:
    """Measure the cases in whose name or id one of `names` occurs; all of them, and rewrite the page, if there are none."""
    chosen = [case for case in cases() if not names or any(name in f"{case.id} {case.name}" for name in names)]
    torch.set_num_threads(THREADS)
    of_pyramids = bench_pyramids.rows(load(), names)
    if of_pyramids:
        print(*bench_pyramids.HEADER, *of_pyramids, sep="\n")
    if not names:
        _write(BEGIN_PYRAMIDS, END_PYRAMIDS, [*bench_pyramids.HEADER, *of_pyramids])
    if not chosen and of_pyramids:
        return 0
    if not chosen:
        print(f"nothing is named {' or '.join(names)}; there are {', '.join(case.name for case in cases())}")
        return 1
    rows = []
    print(*HEADER, sep="\n")
    for case in chosen:
        found = {key: _in_a_process(case.name, key) for key in ALLOCATORS}
        rows.append(_row(case, found))
        print(rows[-1], flush=True)
    if not names:
        _write(BEGIN, END, [*HEADER, *rows])
    return 0


def _write(begin: str, end: str, table: list[str]) -> None:
    """Put a table, and how it was measured, between two marks of the page."""
    text = PAGE.read_text()
    before, after = text[: text.index(begin)], text[text.index(end) :]
    PAGE.write_text("\n".join([before + begin, "", *_circumstances(), "", *table, "", after]))


def _in_a_process(name: str, allocator: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tools.bench", name, "compile" if allocator == "default" else ""]
    done = subprocess.run(command, env=os.environ | ALLOCATORS[allocator], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr, file=sys.stderr)
        return {}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


HEADER = [
    "| | ms | plain / ours | recycling | compiled | at 100 boxes | peer | peer / ours | recycling | peak, MiB | of plain |",
    "| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
]


def _row(case: Case, found: dict[str, dict[str, Any]]) -> str:
    default, recycling = found["default"], found["recycling"]

    def ratio(of: dict[str, Any], size: str, a: str, b: str = "ours") -> str:
        times = of.get(size, {})
        return f"{times[a] / times[b]:.2g}" if a in times and b in times else ""

    def mebibytes(variant: str) -> str:
        bytes = default.get("peak", {}).get(variant)
        return f"{bytes / 2**20:.3g}" if bytes is not None else ""

    cells = [
        case.name,
        f"{default['large']['ours']:.3g}" if "large" in default else "failed",
        ratio(default, "large", "plain"),
        ratio(recycling, "large", "plain"),
        ratio(default, "large", "plain", "compiled"),
        ratio(default, "small", "plain"),
        default.get("peer", ""),
        ratio(default, "large", "peer"),
        ratio(recycling, "large", "peer"),
        mebibytes("ours"),
        mebibytes("plain"),
    ]
    return f"| {' | '.join(cells)} |"


def _circumstances() -> list[str]:
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    settings = " ".join(f"{key}={value}" for key, value in ALLOCATORS["recycling"].items())
    return [
        f"Measured on {datetime.date.today()}: {processor}, {os.cpu_count()} processors, load {os.getloadavg()[1]:.1f} before and during; "
        f"{THREADS} thread; torch {torch.__version__}, Python {platform.python_version()}; float32; "
        f"medians of the processor's time in {REPETITIONS} runs that take turns. Recycling: `{settings}`.",
    ]


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2] == "compile")))
