"""The benchmark: what is measured, each case in which process, and what becomes of the figures."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tools.bench import growth, page, pyramids, simulation
from tools.bench.baselines import BASELINES, peers
from tools.bench.cases import Case, cases, without_plain_form
from tools.bench.measure import SLOW_SECONDS, THREADS, once, peak, take_turns
from tools.bench.page import short
from tools.catalog import ROOT, load

ALLOCATORS = {"default": {}, "recycling": {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}}
HEADER = [
    "| Function | ms | plain / ours | recycling | compiled | at 100 boxes | peer | peer / ours | recycling | peak, MiB | of plain |",
    "| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
]

Found = dict[str, Any]


def bench(names: list[str]) -> int:
    """Measure what has one of `names` in its name or address; everything, and rewrite the page, if there are none."""
    torch.set_num_threads(THREADS)
    catalog = load()
    chosen = [case for case in cases() if not names or any(name in f"{case.id} {case.name}" for name in names)]
    tables = {
        "figures": (HEADER, _rows(chosen)),
        "growth": (growth.HEADER, growth.rows(names)),
        "simulation": (simulation.HEADER, simulation.rows(catalog, names)),
        "pyramids": (pyramids.HEADER, pyramids.rows(catalog, names)),
    }
    printed = 0
    for table, (header, rows) in tables.items():
        lines = list(header)
        for row in rows:
            print(*([] if len(lines) > len(header) else header), row, sep="\n", flush=True)
            lines.append(row)
        printed += len(lines) - len(header)
        if not names:
            page.write(table, lines, _note() if table == "figures" else "")
    if not printed:
        print(f"nothing is named {' or '.join(names)}; there are simulation, {', '.join(case.name for case in cases())}")
    return 0 if printed else 1


def measure(name: str, *, with_compiler: bool) -> Found:
    """Median milliseconds of each variant of a case at each size; at the large one, the peak of memory in bytes."""
    torch.set_num_threads(THREADS)
    case = next(c for c in cases() if c.name == name)
    found: Found = {}
    for size, sizes in (("small", case.small), ("large", case.large)):
        given = case.arguments(sizes)
        variants = {"plain": BASELINES[case.id], "ours": case.function}
        if case.id in peers():
            found["peer"], variants["peer"] = peers()[case.id]
        if size == "large" and with_compiler and case.compiled:
            variants["compiled"] = torch.compile(case.function, fullgraph=True, dynamic=False)
            once(variants["compiled"], given)
        found[size] = take_turns(variants, given)
        if size == "large":
            found["peak"] = {key: peak(f, given) for key, f in variants.items() if found[size][key] < 1000 * SLOW_SECONDS}
    return found


def _rows(chosen: list[Case]) -> Iterator[str]:
    with _worker("default") as as_it_is, _worker("recycling") as recycling:
        for case in chosen:
            yield _row(case, as_it_is(case.name, with_compiler=case.compiled), recycling(case.name, with_compiler=False))


@contextmanager
def _worker(allocator: str) -> Iterator[Callable[..., Found]]:
    """Measures cases by name, each in a process of its own, where memory comes from an allocator with these settings.

    Much of the time of a large tensor's first use is spent on getting its pages; one of the two keeps the memory that it has.
    """
    environment = os.environ | ALLOCATORS[allocator] | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-m", "tools.bench"], env=environment, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin
        assert stdout

        def measured(name: str, *, with_compiler: bool) -> Found:
            print(json.dumps((name, with_compiler)), file=stdin, flush=True)
            found: Found = json.loads(stdout.readline())
            return found

        yield measured


def _row(case: Case, default: Found, recycling: Found) -> str:
    def ratio(of: Found, size: str, a: str, b: str = "ours") -> str:
        times = of.get(size, {})
        return short(times[a] / times[b], 2) if a in times and b in times else ""

    def mebibytes(variant: str) -> str:
        bytes = default.get("peak", {}).get(variant)
        return short(bytes / 2**20) if bytes is not None else ""

    cells = [
        case.name,
        short(default["large"]["ours"]) if "large" in default else "failed",
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


def _note() -> str:
    settings = " ".join(f"{key}={value}" for key, value in ALLOCATORS["recycling"].items())
    left_out = without_plain_form()
    return f"float32. Recycling: `{settings}`." + (f" Without a plain form, and not measured: {', '.join(left_out)}." if left_out else "")
