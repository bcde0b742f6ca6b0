"""The golden cases tell a method from its neighbours: each named mistake, and each output a hair too large, makes one fail."""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
from torch import Tensor

from tests.inputs import CATALOG
from tools.catalog import ROOT
from tools.golden import Case, compare, own_name, resolve

MISTAKES = [(id, mistake) for id, method in CATALOG.implemented.items() for mistake in method.mistakes]


def broken(id: str, replace: str, by: str) -> ModuleType:
    """The module of a method with one mistake in it."""
    source = (ROOT / "reference_impl" / f"{id.replace('.', '/')}.py").read_text()
    assert replace in source, f"{id}: the module has no text `{replace}`"
    module = ModuleType(f"broken_{id}")
    exec(compile(source.replace(replace, by), f"{id} with a mistake", "exec"), module.__dict__)
    return module


def all_agree(id: str, function_of: Callable[[str], Any]) -> bool:
    exports = import_module(f"reference_impl.{id}").__all__
    for golden in CATALOG.implemented[id].golden:
        try:
            found = compare(CATALOG, Case(id, golden), function=function_of(golden.call or own_name(id.split(".")[1], exports)))
        except (ValueError, TypeError, RuntimeError, IndexError):
            return False
        if not all(comparison.agrees for comparison in found):
            return False
    return True


@pytest.mark.parametrize(("id", "mistake"), MISTAKES, ids=[f"{id}: {mistake.name}" for id, mistake in MISTAKES])
def test_a_mistake_is_caught(id: str, mistake: Any) -> None:
    module = broken(id, mistake.replace, mistake.by)
    assert not all_agree(id, lambda name: getattr(module, name)), f"no golden case of {id} fails when it {mistake.name}"


@pytest.mark.parametrize("id", CATALOG.implemented)
def test_a_scaled_output_is_caught(id: str) -> None:
    def scaled(name: str) -> Callable[..., Any]:
        function = resolve(id, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            return result * (1 + 1e-5) if isinstance(result, Tensor) else type(result)(r * (1 + 1e-5) for r in result)

        wrapper.__wrapped__ = function  # type: ignore[attr-defined]
        return wrapper

    assert not all_agree(id, scaled)
