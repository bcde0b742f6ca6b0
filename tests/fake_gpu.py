"""Run every function on a device that has no memory, and report what would stop a GPU: mixed devices, and waits for the host.

A program of its own, because the device is registered for the process: `python -m tests.fake_gpu ADDRESS...` prints JSON. Its tensors have
shape, dtype and device but no values, so that what needs a value on the host cannot go unseen.
"""

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests import faulty
from tests.inputs import AMOUNTS, Amount, drawn, functions, make, optional

DEVICE = "fakegpu"
READS_VALUES = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
}
TAKES_INDICES = {"index", "index_put", "index_put_", "_unsafe_index", "_unsafe_index_put"}


class Waits(TorchDispatchMode):
    """Notes each operation for which the host has to wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        result = operation(*args, **(kwargs or {}))
        if name in READS_VALUES:
            self.found.append(name)
        elif name in TAKES_INDICES and any(index is not None and index.dtype is torch.bool for index in args[1]):
            self.found.append(f"{name} with a mask")
        elif name in ("_to_copy", "copy_"):
            places = {x.device.type == "cpu" for x in (result, *args) if isinstance(x, Tensor)}
            if len(places) == 2:
                self.found.append("copy to the host" if result.device.type == "cpu" else "copy from the host")
        return result


class Literals(TorchFunctionMode):
    """Makes `torch.tensor([1, 2], device=...)` what it is, a tensor on the host and a copy: a fake device cannot do both at once."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is Tensor.new_tensor:
            kwargs = {"dtype": args[0].dtype, "device": args[0].device} | kwargs
            function, args = torch.tensor, args[1:]
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        return function(*args, **kwargs)


def trial(function: Callable[..., Any], amount: Amount, leave_out: list[str]) -> dict[str, Any]:
    """The waits of one call, forward and backward, and the error that ended it."""
    real = make(function, dtype=torch.float32, leave_out=leave_out)
    waits, error = Waits(), None
    with FakeTensorMode(shape_env=ShapeEnv(allow_scalar_outputs=True, allow_dynamic_output_shape_ops=True)), Literals(), waits:
        arguments = {
            name: torch.empty(x.shape, dtype=x.dtype, device=DEVICE, requires_grad=x.is_floating_point()) for name, x in real.items()
        }
        try:
            with amount():
                call(function, arguments)
        except GuardOnDataDependentSymNode:
            error = "branches on a value"
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}".splitlines()[0]
    return {"waits": waits.found, "error": error}


def call(function: Callable[..., Any], arguments: dict[str, Tensor]) -> None:
    result = function(**arguments)
    results = result if isinstance(result, (tuple, list)) else [result]
    for x in results:
        if x.device.type != DEVICE:
            raise RuntimeError(f"the result is on {x.device}")
    flowing = [x.sum() for x in results if x.requires_grad]
    if flowing:
        torch.stack(flowing).sum().backward()
    for name, x in arguments.items():
        if x.grad is not None and x.grad.device.type != DEVICE:
            raise RuntimeError(f"the gradient on {name} is on {x.grad.device}")


def trials(addresses: list[str]) -> Iterator[tuple[str, Callable[..., Any], Amount, list[str]]]:
    asked = {address: function for address, function in functions().items() if address in addresses}
    wrong = {f"faulty.{name}": f for name, f in inspect.getmembers(faulty, inspect.isfunction) if hasattr(f, "__wrapped__")}
    for address, function in (asked | wrong).items():
        yield address, function, nullcontext, [*optional(function), *drawn(function)]
        for amount in AMOUNTS:
            yield address, function, amount, []


def main() -> None:
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    try:
        _setup_privateuseone_for_python_backend(DEVICE)
    except Exception as error:
        print(json.dumps({"unavailable": f"{type(error).__name__}: {error}"}))
        return
    # Without this there is no autocast to switch off.
    torch.get_device_module(DEVICE).get_amp_supported_dtype = lambda: [torch.bfloat16]
    report: dict[str, dict[str, Any]] = {}
    for address, function, amount, leave_out in trials(sys.argv[1:]):
        found = trial(function, amount, leave_out)
        entry = report.setdefault(address, {"waits": [], "errors": []})
        entry["waits"] += found["waits"]
        entry["errors"] += [found["error"]] if found["error"] else []
    print(json.dumps(report))


if __name__ == "__main__":
    main()
