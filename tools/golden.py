"""Golden cases as calls: arguments from data, the result beside what is expected, and how near is near enough."""

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tools.catalog import Catalog
from tools.records import Golden, Size

# Absolute and relative, by the dtype that floating-point arguments have.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2e-2}
GRADIENT_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 4e-2}


@dataclass(frozen=True)
class Case:
    """A golden case with its owner's address: `losses.giou_loss`, or `ops.boxes.box_iou`."""

    id: str
    golden: Golden

    @property
    def name(self) -> str:
        return f"{self.id}: {self.golden.name}"


@dataclass(frozen=True)
class Comparison:
    """One expected value (or gradient) beside the computed one."""

    what: str
    expected: Tensor
    computed: Tensor
    tolerance: float

    def __str__(self) -> str:
        if self.expected.shape != self.computed.shape:
            return f"expected shape {tuple(self.expected.shape)}, computed {tuple(self.computed.shape)}"
        return f"expected {self.expected.tolist()}, computed {self.computed.tolist()}, off by {self.difference:g}"

    @property
    def difference(self) -> float:
        if self.expected.shape != self.computed.shape:
            return float("inf")
        gap = (self.expected.double() - self.computed.detach().double().cpu()).abs()
        return gap.nan_to_num(nan=float("inf")).max().item() if gap.numel() else 0.0

    @property
    def agrees(self) -> bool:
        if self.expected.shape != self.computed.shape:
            return False
        computed = self.computed.detach().double().cpu()
        return torch.allclose(computed, self.expected.double(), rtol=self.tolerance, atol=self.tolerance)


def count_parameters(id: str, size: Size) -> int:
    """How many parameters the module of `size` has, made without memory for them."""
    with torch.device("meta"):
        module: nn.Module = resolve(id, size.call)(**size.init)
    return sum(parameter.numel() for parameter in module.parameters())


def cases(catalog: Catalog) -> Iterator[Case]:
    """Every golden case: of the implemented methods, then of `reference_impl.ops`."""
    for id, method in catalog.implemented.items():
        yield from (Case(id, golden) for golden in method.golden)
    for name, goldens in catalog.ops.items():
        yield from (Case(f"ops.{name}", golden) for golden in goldens)


def resolve(id: str, call: str | None = None) -> Any:
    """The function or class that `id` names: `losses.giou_loss`, or `ops.boxes.box_iou`."""
    path = id.split(".")
    module = import_module(".".join(["reference_impl", *path[:2]]))
    return getattr(module, call or own_name(path[-1], module.__all__))


def own_name(method: str, exports: Sequence[str]) -> str:
    """The export that is the method itself: the one of its name, or the class: `IoUNet` for `iou_net`."""
    same = [name for name in exports if name.replace("_", "").lower() == method.replace("_", "")]
    return method if method in exports or not same else same[0]


def tensor_annotation(annotation: Any) -> Any:
    """The jaxtyping annotation of a tensor argument (which may also be None), or None for anything else."""
    return next((a for a in (annotation, *get_args(annotation)) if hasattr(a, "dim_str")), None)


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters of a function, or of a module's `forward`, without `self`."""
    target = function.forward if isinstance(function, type) and issubclass(function, nn.Module) else function
    found = dict(inspect.signature(target, eval_str=True).parameters)
    found.pop("self", None)
    return found


def hyper_parameters(module: ModuleType, documented: Collection[str]) -> Iterator[tuple[str, str, inspect.Parameter]]:
    """The keyword-only parameters of a method's functions that are no tensors, each behind its key in the entry and its function.

    The key is the parameter's name, or `function.name` where the entry has that.
    """
    for public in module.__all__:
        for name, parameter in inspect.signature(getattr(module, public), eval_str=True).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY and not tensor_annotation(parameter.annotation):
                yield f"{public}.{name}" if f"{public}.{name}" in documented else name, public, parameter


def arguments(
    catalog: Catalog, function: Callable[..., Any], args: dict[str, Any], dtype: torch.dtype, device: str = "cpu"
) -> dict[str, Any]:
    """`args` of a golden case as `function` takes them: tensors where the signature says so, all else as it is.

    Raises:
        ValueError: an argument is unknown or missing, a fixture does not exist, or a list is not a tensor.
    """
    known = parameters(function)
    for name in args:
        if name not in known:
            raise ValueError(f"there is no argument `{name}`; the signature has {', '.join(known)}")
    for name, parameter in known.items():
        if name not in args and parameter.default is parameter.empty:
            raise ValueError(f"the argument `{name}` is missing")
    return {name: _argument(catalog, name, value, known[name].annotation, dtype, device) for name, value in args.items()}


def _argument(catalog: Catalog, name: str, value: Any, annotation: Any, dtype: torch.dtype, device: str) -> Any:
    kind = tensor_annotation(annotation)
    if kind is None:
        if isinstance(value, list) and any(isinstance(v, list) for v in value):
            return [torch.tensor(v, dtype=dtype, device=device) for v in value]
        return value
    if value is None or (not isinstance(value, (list, str)) and annotation is not kind):
        return value
    if isinstance(value, str):
        fixture, _, field = value.partition(".")
        if fixture not in catalog.fixtures or field not in catalog.fixtures[fixture].fields:
            raise ValueError(f"`{name}`: there is no fixture field `{value}`")
        value = catalog.fixtures[fixture].fields[field]
    wanted = {Float: dtype, Bool: torch.bool, Int: torch.int64}.get(kind.dtype, dtype)
    if wanted is torch.bool and not all(isinstance(v, bool) for v in leaves_of(value)):
        raise ValueError(f"`{name}`: expected true and false only")
    if wanted is torch.int64 and not all(type(v) is int for v in leaves_of(value)):
        raise ValueError(f"`{name}`: expected integers only")
    try:
        return torch.tensor(value, dtype=wanted, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"`{name}`: expected a rectangular list of numbers") from None


def leaves_of(value: Any) -> Iterator[Any]:
    """The numbers of a nested list or mapping."""
    if isinstance(value, (list, dict)):
        for v in value.values() if isinstance(value, dict) else value:
            yield from leaves_of(v)
    else:
        yield value


def compare(
    catalog: Catalog,
    case: Case,
    *,
    function: Callable[..., Any] | None = None,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    wrap: Callable[[Any], Any] = lambda f: f,
) -> list[Comparison]:
    """Run a case; every output and gradient beside what is expected.

    Args:
        function: what to run in place of the implementation, as a broken variant of it.
        wrap: applied to the function or module before the call, as `torch.compile`.
    """
    golden = case.golden
    function = function or resolve(case.id, golden.call)
    args = arguments(catalog, function, golden.args, dtype, device)
    if isinstance(function, type) and issubclass(function, nn.Module):
        function = _module(function, golden, dtype, device)
    leaves = [leaf for name, value in golden.gradient.items() for leaf in _leaves(name, args[name], value)]
    for _, argument, _ in leaves:
        argument.requires_grad_()
    result = wrap(function)(**args)
    outputs = list(result) if isinstance(result, (tuple, list)) else [result]
    expected = golden.expect if isinstance(result, (tuple, list)) else [golden.expect]
    if len(expected) != len(outputs):
        raise ValueError(f"expected {len(expected)} outputs, got {len(outputs)}")
    near = max(TOLERANCE[dtype], 0.5001 * 10.0**-golden.decimals if golden.decimals is not None else 0.0)
    found = [Comparison("value", _like(e, o), o, near) for e, o in zip(expected, outputs, strict=True)]
    if leaves:
        total = sum(o.sum() for o in outputs if o.is_floating_point())
        gradients = torch.autograd.grad(total, [argument for _, argument, _ in leaves])
        for (name, _, value), gradient in zip(leaves, gradients, strict=True):
            expected_gradient = torch.tensor(value, dtype=torch.float64)
            found.append(Comparison(f"gradient on {name}", expected_gradient, gradient, GRADIENT_TOLERANCE[dtype]))
    return found


def _leaves(name: str, argument: Any, value: Any) -> list[tuple[str, Tensor, Any]]:
    """A tensor argument, or each tensor of a list of them, with its name and the gradient that is expected of it."""
    if isinstance(argument, Tensor):
        return [(name, argument, value)]
    return [(f"{name}[{i}]", x, v) for i, (x, v) in enumerate(zip(argument, value, strict=True))]


def _module(cls: type[nn.Module], golden: Golden, dtype: torch.dtype, device: str) -> nn.Module:
    """The module of a case, every parameter set as `fill` says where the case says it."""
    module = cls(**golden.init).to(device, dtype)
    for i, parameter in enumerate(module.parameters()):
        if golden.fill == "waves":
            values = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) + i).reshape(parameter.shape)
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            parameter.data.copy_(values / fan_in**0.5)
        elif golden.fill is not None:
            nn.init.constant_(parameter, golden.fill)
    return module.eval()


def _like(expected: Any, output: Tensor) -> Tensor:
    """`expected` as a tensor; what would be cut off to become an integer or a bool stays a fraction, and disagrees."""
    numbers = torch.tensor(expected, dtype=torch.float64)
    return numbers if output.is_floating_point() or not numbers.equal(numbers.to(output.dtype).double()) else numbers.to(output.dtype)
