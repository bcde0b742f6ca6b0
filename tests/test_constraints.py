"""What is pinned installs on every Python that the project is for."""

import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]


def test_each_pinned_package_runs_on_the_oldest_python() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    oldest = wanted.removeprefix(">=") + ".0"
    pinned = [Requirement(line).name for line in (ROOT / "constraints.txt").read_text().split()]
    assert {name: found for name in pinned if (found := _requires_python(name)) and oldest not in SpecifierSet(found)} == {}


def _requires_python(name: str) -> str | None:
    """What an installed package wants; another system's packages are pinned, too."""
    try:
        return metadata(name).get("Requires-Python")
    except PackageNotFoundError:
        return None
