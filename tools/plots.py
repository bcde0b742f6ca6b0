"""Curves of the implementations, beside their relatives: run, differentiated, and drawn as SVG in the page's own colours."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from markupsafe import Markup
from torch import Tensor

from tools.catalog import Catalog
from tools.charts import Axis, Series, line_chart
from tools.golden import parameters, resolve

POINTS = 241


@dataclass(frozen=True)
class Sweep:
    """One way to vary an input: the numbers on the axis, and the arguments that they become, by name."""

    title: str
    axis: str
    gradient: str
    low: float
    high: float
    arguments: Callable[[Tensor], dict[str, Tensor]]
    clip: float
    log: bool = False
    finish: Callable[[Tensor, Tensor], Tensor] = lambda x, values: values
    per_logit: bool = False
    constant_weight: bool = False
    baseline: str | None = None


def _error(x: Tensor) -> dict[str, Tensor]:
    return {"pred": x, "target": torch.zeros_like(x), "log_variance": torch.zeros_like(x)}


def _shift(x: Tensor) -> dict[str, Tensor]:
    target = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=x.dtype).expand(len(x), 4)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return {"pred": target + torch.stack((x, 0.1 * one, x, 0.1 * one), -1) + 0 * zero[:, None], "target": target}


def _aspect(x: Tensor) -> dict[str, Tensor]:
    target = torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=x.dtype).expand(len(x), 4)
    half = torch.stack((x.sqrt(), 1 / x.sqrt()), -1)
    return {"pred": torch.cat((-half, half), -1), "target": target}


def _probability(x: Tensor) -> dict[str, Tensor]:
    return {"p_s": x}


def _gradient_norm(x: Tensor) -> dict[str, Tensor]:
    """The norms of the axis, among those of a batch that is crowded with easy examples and, less so, with outliers."""
    share = torch.linspace(0, 1, 2000, dtype=x.dtype)
    return {"p_s": 1 - torch.cat((x, 0.4 * share**4, 1 - 0.2 * share[::10] ** 2))}


def _times_cross_entropy(p: Tensor, weight: Tensor) -> Tensor:
    """The weight is a constant to the gradient only where its method makes it one."""
    return weight * -p.log()


SWEEPS = {
    "error": Sweep("as the error of one coordinate grows", "error x", "d loss / d x", -3, 3, _error, 5),
    "shift": Sweep("as a box slides over its target", "offset, in box widths", "d loss / d offset", -1.75, 1.75, _shift, 5),
    "aspect": Sweep("as a centred box of the same area changes shape", "aspect ratio", "d loss / d ratio", 0.2, 5, _aspect, 3, log=True),
    "probability": Sweep(
        "weight times cross entropy, as the classifier grows sure",
        "probability of the true class",
        "d loss / d logit",
        0.005,
        0.995,
        _probability,
        5,
        finish=_times_cross_entropy,
        per_logit=True,
        baseline="cross entropy",
    ),
    "gradient_norm": Sweep(
        "weight, and gradient norm that is left, in a batch crowded at both ends",
        "gradient norm of cross entropy",
        "weight times norm",
        0.0,
        1.0,
        _gradient_norm,
        5,
        constant_weight=True,
        baseline="cross entropy",
    ),
}


@dataclass(frozen=True)
class Curve:
    id: str
    name: str
    value: list[float]
    slope: list[float]


@dataclass(frozen=True)
class Plot:
    """Value and gradient of a method and of its relatives under one sweep."""

    title: str
    names: list[tuple[str, str]]
    value: Markup
    gradient: Markup


class Plots:
    """All curves of the catalog, each computed once."""

    def __init__(self, catalog: Catalog) -> None:
        self.curves = {
            key: [curve(sweep, id, method.name) for id, method in catalog.implemented.items() if key in method.plots]
            for key, sweep in SWEEPS.items()
        }
        self.baselines = {key: _trace(sweep, "", sweep.baseline, torch.ones_like) for key, sweep in SWEEPS.items() if sweep.baseline}

    def of(self, id: str, keys: list[str]) -> list[Plot]:
        return [self._plot(id, key) for key in keys if key in SWEEPS]

    def _plot(self, id: str, key: str) -> Plot:
        sweep, curves = SWEEPS[key], self.curves[key]
        ordered = [c for c in curves if c.id != id] + [c for c in curves if c.id == id]
        names = [(c.id, c.name) for c in reversed(ordered)]
        if key in self.baselines:
            ordered = [self.baselines[key], *ordered]
            names.append(("", self.baselines[key].name))
        return Plot(sweep.title, names, _panel(sweep, ordered, id, "value"), _panel(sweep, ordered, id, "slope"))


def curve(sweep: Sweep, id: str, name: str) -> Curve:
    """The implementation's values and autograd's slopes along a sweep."""
    known = sweep.arguments(axis(sweep))
    function = _function(id, known)
    wanted = [key for key in parameters(function) if key in known]
    return _trace(sweep, id, name, lambda x: function(**{key: sweep.arguments(x)[key] for key in wanted}))


def _trace(sweep: Sweep, id: str, name: str, function: Callable[[Tensor], Tensor]) -> Curve:
    x = axis(sweep).requires_grad_()
    values = sweep.finish(x, function(x)[: len(x)].reshape(len(x), -1).sum(-1))
    slope = (values * x).detach() if sweep.constant_weight else torch.autograd.grad(values.sum(), x)[0]
    if sweep.per_logit:
        slope = slope * (x * (1 - x)).detach()
    return Curve(id, name, values.tolist(), slope.tolist())


def _function(id: str, known: dict[str, Any]) -> Callable[..., Tensor]:
    """The function of a method's module that takes the sweep's arguments: the method itself, or its weight."""
    module = import_module(f"reference_impl.{id}")
    for name in sorted(module.__all__, key=lambda n: n != id.split(".")[1]):
        required = [p for p in parameters(getattr(module, name)).values() if p.default is p.empty]
        if all(p.name in known for p in required):
            function: Callable[..., Tensor] = resolve(id, name)
            return function
    raise ValueError(f"{id}: no exported function takes {', '.join(known)}")


def axis(sweep: Sweep) -> Tensor:
    if sweep.log:
        return torch.linspace(math.log(sweep.low), math.log(sweep.high), POINTS, dtype=torch.float64).exp()
    return torch.linspace(sweep.low, sweep.high, POINTS, dtype=torch.float64)


def _panel(sweep: Sweep, curves: list[Curve], id: str, which: str) -> Markup:
    series = [Series(getattr(c, which), "main" if c.id == id else "other" if c.id else "baseline", c.id) for c in curves]
    label = sweep.axis if which == "value" else f"{sweep.gradient}, over {sweep.axis}"
    what = "Loss" if which == "value" else "Gradient"
    shown = Axis(label, sweep.low, sweep.high, sweep.log)
    return line_chart(shown, axis(sweep).tolist(), series, clip=sweep.clip, label=f"{what} {sweep.title}")
