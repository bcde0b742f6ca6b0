"""Shape and type errors that name the argument: a signature's jaxtyping annotations, held at run time."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

__all__ = ["checked", "require_positive"]

F = TypeVar("F", bound=Callable[..., Any])
Sizes = dict[str, Any]

REMEMBERED = 1000


def checked(function: F) -> F:
    """Make `function` raise `TypeError` or `ValueError` where a tensor does not have the annotated type or shape.

    Understands sizes (`4`), names (`n`), leading batch dimensions (`*batch`), and both of them broadcast (`*#batch`, `#n`). Nothing is
    checked while `torch.compile` or `torch.export` traces.

    Raises:
        TypeError: a tensor is expected and something else is given, or the tensor's dtype is of another kind.
        ValueError: the shape does not fit, in itself or together with the arguments before it.
    """
    signature = inspect.signature(function, eval_str=True)
    expected = {name: annotation for name, p in signature.parameters.items() if (annotation := _tensor(p.annotation))}
    alternatives = {name: get_args(signature.parameters[name].annotation) for name in expected}
    passed: set[Any] = set()

    def check(seen: Any, given: dict[str, Any]) -> None:
        sizes: Sizes = {}
        for name, annotation in expected.items():
            if type(given[name]) not in alternatives[name]:
                _check(function.__name__, name, given[name], annotation, sizes)
        if len(passed) >= REMEMBERED:
            passed.clear()
        passed.add(seen)

    wrapper: F = _wrapper(function.__name__, signature, list(expected))(function, passed, check)
    wrapper.__defaults__, wrapper.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    functools.update_wrapper(wrapper, function)
    return wrapper


def require_positive(function: str, **parameters: float) -> None:
    """Make `function` raise `ValueError` where one of its hyper-parameters is not above 0."""
    for name, value in parameters.items():
        if not value > 0:
            raise ValueError(f"{function}: `{name}` is {value}; expected a number > 0")


def _wrapper(name: str, signature: inspect.Signature, looked_at: list[str]) -> Callable[..., Any]:
    """What makes a function that looks at some of its arguments, and passes all of them on.

    It is written out for the signature, as `dataclasses` does: to collect the arguments of any signature takes three times as long, which
    little input feels. And `torch.compile` counts recompilations by code object, so each function has one of its own.
    """
    parameters = [p.replace(annotation=p.empty, default=p.empty) for p in signature.parameters.values()]
    head = signature.replace(parameters=parameters, return_annotation=signature.empty)
    arguments = ", ".join(f"{p.name}={p.name}" if p.kind is p.KEYWORD_ONLY else p.name for p in parameters)
    # What the check looks at: equal for arguments that pass or fail together.
    seen = "".join(f"({x}.shape, {x}.dtype) if isinstance({x}, Tensor) else type({x}), " for x in looked_at)
    source = f"""
def make(_function, _passed, _check):
    def {name}{head}:
        if not torch.compiler.is_compiling() and (_seen := ({seen})) not in _passed:
            _check(_seen, locals())
        return _function({arguments})
    return {name}
"""
    found: dict[str, Any] = {}
    exec(compile(source, f"<checked {name}>", "exec"), globals(), found)
    make: Callable[..., Any] = found["make"]
    return make


def _tensor(annotation: Any) -> Any:
    """The jaxtyping annotation in `annotation`, which may be a union with None or a number."""
    return next((a for a in (annotation, *get_args(annotation)) if hasattr(a, "dim_str")), None)


def _check(function: str, name: str, value: Any, annotation: Any, sizes: Sizes) -> None:
    expected = f"{_KIND[annotation.dtype]} tensor of shape ({annotation.dim_str})"
    if not isinstance(value, Tensor):
        raise TypeError(f"{function}: `{name}` is a {type(value).__name__}; expected {expected}")
    if not _IS_KIND[annotation.dtype](value.dtype):
        raise TypeError(f"{function}: `{name}` has dtype {value.dtype}; expected {expected}")
    if not _fits(value.shape, annotation.dim_str.split(), sizes):
        known = ", ".join(f"{key} = {size}" for key, size in sizes.items())
        bound = f", where {known}" if known else ""
        raise ValueError(f"{function}: `{name}` has shape {tuple(value.shape)}; expected {expected}{bound}")


def _fits(shape: torch.Size, dims: list[str], sizes: Sizes) -> bool:
    """Whether `shape` is what `dims` says; binds the names that it meets for the first time."""
    if dims and dims[0].startswith("*"):
        rest = len(shape) - (len(dims) - 1)
        if rest < 0 or not _bind(dims[0], tuple(shape[:rest]), sizes):
            return False
        shape, dims = shape[rest:], dims[1:]
    return len(shape) == len(dims) and all(_bind(dim, size, sizes) for dim, size in zip(dims, shape, strict=True))


def _bind(dim: str, size: Any, sizes: Sizes) -> bool:
    if dim.isdigit():
        return bool(size == int(dim))
    name = dim.replace("#", "")
    merged = _broadcast(sizes.get(name, size), size) if "#" in dim else sizes.get(name, size)
    if merged is None or ("#" not in dim and merged != size):
        return False
    sizes[name] = merged
    return True


def _broadcast(a: Any, b: Any) -> Any:
    if isinstance(a, int):
        return max(a, b) if 1 in (a, b) or a == b else None
    try:
        return tuple(torch.broadcast_shapes(a, b))  # type: ignore[no-untyped-call]
    except RuntimeError:
        return None


_KIND = {Float: "a floating-point", Bool: "a bool", Int: "an integer", Num: "a numeric"}
_IS_KIND: dict[Any, Callable[[torch.dtype], bool]] = {
    Float: lambda dtype: dtype.is_floating_point,
    Bool: lambda dtype: dtype is torch.bool,
    Int: lambda dtype: not dtype.is_floating_point and not dtype.is_complex and dtype is not torch.bool,
    Num: lambda dtype: dtype is not torch.bool,
}
