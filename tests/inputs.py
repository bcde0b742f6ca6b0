"""Arguments for any function of the project, made from its signature.

The annotation of an argument says its shape and dtype; its name says which values make sense, because a name means the same everywhere.
A new method is tested without a word here as long as it keeps to the names below; an unknown name gets numbers in (0, 1).
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from typing import Any, get_args, get_origin
from zlib import crc32

import pytest
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from tools.catalog import load
from tools.golden import parameters, tensor_annotation

CATALOG = load()

SIZES = {"n": 6, "m": 3, "k": 3, "c": 3, "g": 2, "h": 20, "w": 24, "bins": 10}
NEVER_EMPTY = {"c", "bins"}
BOXES = {"a", "anchors", "b", "boxes", "pred", "proposals", "reference", "target", "windows"}
ROLES = {"negative": 0, "positive": 1}

# By name: values that a training step may meet and that must not break anything. Lists are as long as each other so that they combine.
FAR = 1e6
EXTREME: dict[str, list[float]] = {
    "logits": [0.0, 100.0, -100.0, 100.0],
    "log_variance": [0.0, 100.0, -100.0, 0.0],
    "loss": [0.0, 0.0, 100.0, 1e4],
    "noise": [0.0, 0.5, 1 - 2**-24, 0.0],
    "pred": [0.0, 1.0, 1e4, -1e4],
    "target": [0.0, 1.0, -1e4, -1e4],
}
EXTREME_PROBABILITY = [0.0, 1.0, 0.5, 0.0]
EXTREME_BOX = [[10.0, 10.0, 10.0, 10.0], [10.0, 10.0, 30.0, 30.0], [10.0, 20.0, 30.0, 20.0], [FAR, FAR, FAR + 20.0, FAR + 10.0]]
EXTREME_BOX_OF_TARGET = [EXTREME_BOX[0], EXTREME_BOX[1], EXTREME_BOX[1], EXTREME_BOX[1]]
MIXED = len(EXTREME_BOX)

# What decides in `reference_impl.ops` whether input is large, and how much of it is worked on at once.
LIMITS = {
    "dense.SMALL": 1,
    "dense.PER_THREAD": 8,
    "dense.AT_ONCE_ELSEWHERE": 8,
    "ranks.MANY": 1,
    "select.MANY": 1,
    "nms.BLOCK": 2,
    "matching.PAIRS_AT_ONCE": 1,
    "boxes.PAIRS_AT_ONCE": 1,
    "soft_nms.TABLE": 0,
    "roi_align.FEW": 0,
    "soft_ranks.SMALL": 0,
    "soft_ranks.SMALL_SORT": 0,
}

Amount = Callable[[], AbstractContextManager[None]]


@contextmanager
def all_input_is_large() -> Iterator[None]:
    """In here any input is worked on as a detector's is: in several parts, and in the way that is faster for much of it."""
    with pytest.MonkeyPatch.context() as patch:
        for limit, value in LIMITS.items():
            patch.setattr(f"reference_impl.ops.{limit}", value)
        yield


AMOUNTS: list[Amount] = [nullcontext, all_input_is_large]


def functions() -> dict[str, Callable[..., Any]]:
    """Every function that an implemented method exports, by its address: `losses.focal_loss.focal_weight`."""
    found = {}
    for id in CATALOG.implemented:
        module = import_module(f"reference_impl.{id}")
        found |= {f"{id}.{name}": getattr(module, name) for name in module.__all__}
    return {address: function for address, function in found.items() if not isinstance(function, type)}


def tensors(function: Callable[..., Any]) -> dict[str, Any]:
    """The tensor arguments of a function, and the jaxtyping annotation of each."""
    return {name: kind for name, p in parameters(function).items() if (kind := tensor_annotation(p.annotation))}


def optional(function: Callable[..., Any]) -> list[str]:
    """The tensor arguments that may be left out and then mean nothing random."""
    return [name for name in _with_default(function) if "noise" not in name]


def drawn(function: Callable[..., Any]) -> list[str]:
    """The random numbers that a function draws by itself if they are left out."""
    return [name for name in _with_default(function) if "noise" in name]


def _with_default(function: Callable[..., Any]) -> list[str]:
    known = parameters(function)
    return [name for name in tensors(function) if known[name].default is not known[name].empty]


def hyper_parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """The keyword-only parameters of a function, and their defaults."""
    return {name: p.default for name, p in parameters(function).items() if p.kind is p.KEYWORD_ONLY}


def outputs(function: Callable[..., Any]) -> list[Any]:
    """The jaxtyping annotations of what a function returns."""
    returned = inspect.signature(function, eval_str=True).return_annotation
    return list(get_args(returned)) if get_origin(returned) is tuple else [returned]


def sizes_of(function: Callable[..., Any]) -> dict[str, int]:
    """The size of each named dimension; a hyper-parameter may set one, as `bins` does."""
    return SIZES | {name: default for name, default in hyper_parameters(function).items() if name in SIZES}


def shape(annotation: Any, batch: tuple[int, ...], sizes: dict[str, int]) -> tuple[int, ...]:
    """The shape that `annotation` has for these sizes; elements (`*n`) have a batch, too."""
    found: list[int] = []
    for dim in annotation.dim_str.replace("#", "").split():
        if dim.startswith("*"):
            found += batch
            if dim != "*batch":
                found.append(sizes[dim[1:]])
        else:
            found.append(int(dim) if dim.isdigit() else sizes[dim])
    return tuple(found)


def make(
    function: Callable[..., Any],
    *,
    batch: tuple[int, ...] = (2,),
    sizes: dict[str, int] | None = None,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
    leave_out: list[str] | None = None,
    extreme: int | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Tensor arguments for `function`, the same ones each time.

    Args:
        batch: the leading dimensions.
        sizes: of named dimensions, in place of `SIZES`.
        leave_out: arguments that get their default.
        extreme: which of the extreme values every element has; `MIXED` draws one for each element.
    """
    sizes = sizes_of(function) | (sizes or {})
    return {
        name: _make(name, annotation, shape(annotation, batch, sizes), sizes, extreme, seed, dtype).to(device)
        for name, annotation in tensors(function).items()
        if name not in (leave_out or [])
    }


def _make(
    name: str, annotation: Any, size: tuple[int, ...], sizes: dict[str, int], extreme: int | None, seed: int, dtype: torch.dtype
) -> Tensor:
    draw = torch.Generator().manual_seed(crc32(name.encode()) + seed)
    if annotation.dtype is Bool:
        if name not in ROLES:
            return torch.rand(size, generator=draw) < 0.75
        same_for_all_roles = torch.Generator().manual_seed(seed)
        return torch.randint(3, size, generator=same_for_all_roles) == ROLES[name]
    if annotation.dtype in (Int, Num):
        return _integers(name, size, sizes, draw)
    assert annotation.dtype is Float, f"{name}: a tensor is Float, Bool, Int or Num"
    is_box = name in BOXES and annotation.dim_str.endswith(" 4")
    if extreme is None:
        values = _boxes(size, draw) if is_box else _numbers(name, size, draw)
    elif is_box:
        values = _pick(EXTREME_BOX_OF_TARGET if name == "target" else EXTREME_BOX, size[:-1], extreme, draw)
    else:
        kind = "noise" if "noise" in name else name
        values = _pick(EXTREME.get(kind, EXTREME_PROBABILITY), size, extreme, draw)
    if "noise" in name:
        values = values.clamp(max=1 - torch.finfo(dtype).eps)
    return values.to(dtype)


def _integers(name: str, size: tuple[int, ...], sizes: dict[str, int], draw: torch.Generator) -> Tensor:
    if name == "labels":
        return torch.randint(sizes["c"] + 1, size, generator=draw)
    if name == "n_max":
        return torch.full(size, sizes["n"])
    if name == "counts":
        return torch.randint(1, 20, size, generator=draw)
    return torch.randint(3, size, generator=draw)


def _numbers(name: str, size: tuple[int, ...], draw: torch.Generator) -> Tensor:
    uniform = torch.rand(size, generator=draw, dtype=torch.float64)
    if name in ("logits", "pred", "target", "log_variance"):
        return 2 * torch.randn(size, generator=draw, dtype=torch.float64)
    if name == "image_size":
        return 40 + 20 * uniform
    if name in ("mean", "variance"):
        return 20 * uniform
    if name == "ranges" and size[-1] == 2:
        return 40 * uniform.sort(-1).values
    return 3 * uniform if name == "loss" else uniform


def _boxes(size: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """Boxes in a window so small that many of them overlap."""
    corner = 20 * torch.rand(*size[:-1], 2, generator=draw, dtype=torch.float64)
    return torch.cat((corner, corner + 10 + 20 * torch.rand(*size[:-1], 2, generator=draw, dtype=torch.float64)), -1)


def _pick(values: list[Any], size: tuple[int, ...], which: int, draw: torch.Generator) -> Tensor:
    table = torch.tensor(values, dtype=torch.float64)
    index = torch.randint(len(values), size, generator=draw) if which == MIXED else torch.full(size, which)
    return table[index]
