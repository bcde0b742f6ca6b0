"""Every function stays on its device, never makes the host wait for it, and compiles to one graph for all sizes.

Without a GPU this is seen on a device of our own that has no memory (`tests/fake_gpu.py`); with one, on that as well.
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo.exc import Unsupported
from torch._dynamo.testing import CompileCounter

from tests import faulty
from tests.conftest import DEVICES, changing_sizes
from tests.inputs import functions, make, optional
from tools.catalog import ROOT

Function = Callable[..., Any]
Report = dict[str, dict[str, list[str]]]

FUNCTIONS = functions()
every_function = pytest.mark.parametrize("address", FUNCTIONS)

# Functions that make the host wait, and why they may.
WAITS = {
    "generation.iou_uniform.iou_uniform": "copies its default table of ranges to the device; one that is given is there already",
    "losses.balanced_group_softmax.class_groups": "runs once, before training",
}


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest) -> Report:
    """What the fake device finds in the functions that this run is about."""
    parameters = [item.callspec.params for item in request.session.items if isinstance(item, pytest.Function) and hasattr(item, "callspec")]
    command = [sys.executable, "-m", "tests.fake_gpu", *sorted({p["address"] for p in parameters if "address" in p})]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    if "unavailable" in found:
        pytest.skip(f"this torch cannot register a device in Python: {found['unavailable']}")
    return dict(found)


@every_function
def test_everything_stays_on_the_device(address: str, report: Report) -> None:
    assert report[address]["errors"] == []


@every_function
def test_the_host_does_not_wait(address: str, report: Report) -> None:
    assert bool(report[address]["waits"]) == (address in WAITS), report[address]["waits"]


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ("without_device", "found .*two .*devices"),
        ("constant_on_the_cpu", "found .*two .*devices"),
        ("returns_on_the_cpu", "the result is on cpu"),
        ("branches_on_a_tensor", "branches on a value"),
        ("reads_a_number", "_local_scalar_dense"),
        ("selects_by_mask", "index with a mask"),
        ("assigns_by_mask", "index_put_ with a mask"),
        ("lists_indices", "nonzero"),
        ("counts_distinct", "_unique2"),
        ("visits_the_cpu", "copy to the host"),
    ],
)
def test_a_fault_is_found(fault: str, seen: str, report: Report) -> None:
    found = report[f"faulty.{fault}"]
    assert any(re.search(seen, line) for line in found["errors"] + found["waits"])


def test_a_sound_function_passes(report: Report) -> None:
    assert report["faulty.sound"] == {"errors": [], "waits": []}


def graph_breaks(function: Function, leave_out: list[str]) -> int:
    return int(torch._dynamo.explain(function)(**make(function, leave_out=leave_out)).graph_break_count)


@changing_sizes
def graphs(function: Function) -> int:
    """How many graphs a function becomes when called with one size after the other; the first call says which sizes change."""
    counter = CompileCounter()
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    calls = [make(function, batch=(images,), sizes={"n": n}) for images, n in [(4, 60), (5, 75), (7, 99), (8, 130), (9, 64)]]
    for first, second in zip(calls[0].values(), calls[1].values(), strict=True):
        torch._dynamo.maybe_mark_dynamic(first, [i for i, size in enumerate(first.shape) if size != second.shape[i]])
    for arguments in calls:
        compiled(**arguments)
    return int(counter.frame_count)


@pytest.mark.parametrize("address", [address for address, function in FUNCTIONS.items() if optional(function)])
def test_no_graph_breaks(address: str) -> None:
    """Nor where arguments are left out. With all of them, the next test would not compile; nor would golden cases, with theirs."""
    assert graph_breaks(FUNCTIONS[address], optional(FUNCTIONS[address])) == 0


@every_function
def test_one_graph_for_all_sizes(address: str) -> None:
    assert graphs(FUNCTIONS[address]) == 1


@pytest.mark.parametrize("function", [faulty.reads_a_number, faulty.selects_by_mask], ids=lambda f: f.__name__)
def test_a_graph_break_is_found(function: Function) -> None:
    assert graph_breaks(function, []) > 0


def test_a_branch_is_found() -> None:
    with pytest.raises(Unsupported):
        graphs(faulty.branches_on_a_tensor)


def test_a_graph_for_each_size_is_found() -> None:
    assert graphs(faulty.specialises) > 1


@pytest.mark.skipif("cuda" not in DEVICES, reason="there is no GPU")
@every_function
def test_a_gpu_gives_the_same(address: str) -> None:
    """Without waiting for the host, and the same values."""
    function = FUNCTIONS[address]
    expected = function(**make(function))
    arguments = make(function, device="cuda")
    torch.cuda.set_sync_debug_mode("error" if address not in WAITS else "default")
    try:
        result = function(**arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for a, b in zip(*([x] if isinstance(x, torch.Tensor) else x for x in (result, expected)), strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-9, atol=1e-9)
