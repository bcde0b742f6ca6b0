"""Pyramids put together as their entries say, on the backbone that they all share for comparison."""

import inspect
from typing import Any

from torch import nn

from tools.catalog import Catalog
from tools.golden import resolve

# ResNet-50: channels and stride of each level.
BACKBONE = {"C2": (256, 4), "C3": (512, 8), "C4": (1024, 16), "C5": (2048, 32)}
REPEATED = {"layers", "modules", "stacks"}


def assemble(catalog: Catalog, id: str, *, shrink: int = 1, repeats: int | None = None) -> nn.Module:
    """The pyramid `id`, behind the one that it refines, from the levels that its entry names.

    Args:
        shrink: what the channels of the backbone and every width are divided by.
        repeats: how often what a class repeats is there, in place of its own number of `layers`, `modules` or `stacks`.
    """
    assembly = catalog.implemented[id].pyramid
    assert assembly, f"{id} is no pyramid"
    cls = resolve(id, assembly.call)
    init: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if name == "channels":
            init[name] = [BACKBONE[level][0] // shrink for level in assembly.backbone]
        elif name in assembly.init or name.endswith("width"):
            value = assembly.init.get(name, parameter.default)
            init[name] = value // shrink if name.endswith("width") else value
        elif name in REPEATED and repeats is not None:
            init[name] = repeats
    pyramid: nn.Module = cls(**init)
    return nn.Sequential(assemble(catalog, assembly.after, shrink=shrink, repeats=repeats), pyramid) if assembly.after else pyramid
