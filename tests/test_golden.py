"""Every golden case of the catalog: in three dtypes, eager and compiled, on every device.

Compiled means that Dynamo makes one graph of the call, in each dtype, and that the graph gives the values and gradients. In float64 the
graph goes through AOT autograd as well: what that rewrites, mutations and views, is no less there than where `widen` copies.
"""

import pytest
import torch

from tests.conftest import DEVICES
from tests.inputs import CATALOG
from tools.golden import TOLERANCE, Case, cases, compare

CASES = list(cases(CATALOG))
BACKENDS = {torch.float64: "aot_eager", torch.float32: "eager", torch.bfloat16: "eager"}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden(case: Case, compiled: bool, dtype: torch.dtype, device: str) -> None:
    wrap = (lambda f: torch.compile(f, fullgraph=True, backend=BACKENDS[dtype])) if compiled else (lambda f: f)
    for comparison in compare(CATALOG, case, dtype=dtype, device=device, wrap=wrap):
        assert comparison.agrees, f"{case.name}, {comparison.what}: {comparison}"
