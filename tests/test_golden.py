"""Every golden case of the catalog: in three dtypes, eager and compiled, on every device.

Compiled means that Dynamo makes one graph of the call, in each dtype, and that the graph gives the values and gradients. In float64 one
case of each function, with a gradient where there is one, goes through AOT autograd as well: what that rewrites, mutations and views, is
no less there than where `widen` copies.
"""

import pytest
import torch

from tests.conftest import DEVICES
from tests.inputs import CATALOG
from tools.golden import TOLERANCE, Case, cases, compare

CASES = list(cases(CATALOG))
THROUGH_AOT = {(case.id, case.golden.call): case for case in sorted(CASES, key=lambda case: bool(case.golden.gradient))}.values()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden(case: Case, compiled: bool, dtype: torch.dtype, device: str) -> None:
    backend = "aot_eager" if dtype is torch.float64 and case in THROUGH_AOT else "eager"
    wrap = (lambda f: torch.compile(f, fullgraph=True, backend=backend)) if compiled else (lambda f: f)
    for comparison in compare(CATALOG, case, dtype=dtype, device=device, wrap=wrap):
        assert comparison.agrees, f"{case.name}, {comparison.what}: {comparison}"
