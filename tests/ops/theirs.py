"""Public implementations that tests compare with, where a machine has them."""

import importlib
from types import ModuleType

import pytest


def torchvision_ops() -> ModuleType:
    """`torchvision.ops`; skips where it is missing, and where it was built for another torch, which shows at its import."""
    try:
        return importlib.import_module("torchvision.ops")
    except (ImportError, RuntimeError, AttributeError) as broken:
        pytest.skip(f"torchvision.ops: {broken}")
