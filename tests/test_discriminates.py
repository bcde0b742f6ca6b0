"""The golden cases tell a method from its neighbours: each named mistake, and each output a hair too large, makes one fail."""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
from torch import Tensor

from tests.inputs import CATALOG
from tools.catalog import ROOT
from tools.golden import Case, cases, compare, own_name, resolve

MISTAKES = [(id, mistake) for id, method in CATALOG.implemented.items() for mistake in method.mistakes]
MISTAKES += [(f"ops.{name}", mistake) for name, mistakes in CATALOG.ops_mistakes.items() for mistake in mistakes]


def broken(id: str, replace: str, by: str) -> ModuleType:
    """The module of a method with one mistake in it."""
    source = (ROOT / "reference_impl" / f"{id.replace('.', '/')}.py").read_text()
    assert replace in source, f"{id}: the module has no text `{replace}`"
    module = ModuleType(f"broken_{id}")
    exec(compile(source.replace(replace, by), f"{id} with a mistake", "exec"), module.__dict__)
    return module


def cases_of(id: str) -> list[Case]:
    """The golden cases of a method, or of a module of shared parts."""
    return [case for case in cases(CATALOG) if case.id == id or case.id.startswith(f"{id}.")]


def all_agree(id: str, function_of: Callable[[str], Any]) -> bool:
    exports = import_module(f"reference_impl.{id}").__all__
    for case in cases_of(id):
        try:
            found = compare(CATALOG, case, function=function_of(case.golden.call or own_name(case.id.split(".")[-1], exports)))
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
