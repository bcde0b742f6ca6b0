"""What `python -m tools bench` measures: functions, the sizes of their arguments, and how the arguments are made."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tools.bench.baselines import BASELINES
from tools.bench.measure import Arguments
from tools.catalog import load
from tools.golden import parameters, resolve, tensor_annotation

SMALL = 100
DIFFERENTIATED = {
    "losses": {"logits", "pred", "log_variance", "p_s", "others", "background", "deviation", "loss"},
    "sampling": {"log_variance"},
    "assignment": {"logits", "deltas"},
    "ops": {"features", "boxes", "x", "offsets", "weight"},
}
BOXES = {"a", "b", "anchors", "boxes", "pred", "target"}

Sizes = dict[str, int]


@dataclass(frozen=True)
class Case:
    """A function and the sizes of its dimensions: `large`, and for the check that little input is no slower, `small`.

    `build` makes the arguments from the sizes, where their names do not say enough.
    """

    name: str
    id: str
    large: Sizes
    small: Sizes = field(default_factory=dict)
    build: Callable[..., Arguments] | None = None
    compiled: bool = True

    @property
    def function(self) -> Callable[..., Any]:
        function: Callable[..., Any] = resolve(self.id)
        return function

    def arguments(self, sizes: Sizes) -> Arguments:
        """The same for every variant and every call."""
        torch.manual_seed(0)
        made = self.build(**sizes) if self.build else _from_names(self.function, sizes)
        differentiated = DIFFERENTIATED[self.id.split(".")[0]]
        return {name: x.requires_grad_() if name in differentiated and x.is_floating_point() else x for name, x in made.items()}


def cases() -> list[Case]:
    """Every implemented loss, sampler and assignment that has a plain form, and the shared parts that cost most."""
    special = _special()
    usual = BASELINES.keys() & load().implemented.keys() - {case.id for case in special}
    found = special + [Case(id.split(".")[1], id, _usual(id), {**_usual(id), "n": SMALL, "objects": 2}) for id in usual]
    return sorted(found, key=lambda case: ([*DIFFERENTIATED].index(case.id.split(".")[0]), case.name))


def without_plain_form() -> list[str]:
    """The implemented methods of these kinds that are not measured."""
    return [id.split(".")[1] for id in load().implemented if id.split(".")[0] in DIFFERENTIATED and id not in BASELINES]


def _usual(id: str) -> Sizes:
    """A batch of a detector: boxes with logits of 80 classes, or pairs of boxes; one box in fifty is an object."""
    known = parameters(resolve(id))
    n = 200_000 if {"logits", "labels"} <= known.keys() or id.startswith("sampling.") else 100_000
    return {"n": n, "c": 80, "bins": 17, "objects": n // 50}


def _special() -> list[Case]:
    tail = {"n": 2048, "c": 1203, "k": 4}
    ranking = {"n": 101_000, "c": 1, "objects": 1_000}, {"n": SMALL, "c": 1, "objects": 5}
    return [
        *(Case(f"{name}, 1 000 positives", f"losses.{name}", *ranking) for name in ("ap_loss", "alrp_loss", "rank_sort_loss")),
        Case("direct_ap_loss", "losses.direct_ap_loss", {"n": 5_000, "objects": 50}, {"n": SMALL, "objects": 5}),
        Case("ghm_weight, without bins", "losses.ghm_c.ghm_weight", {"n": 20_000}, {"n": SMALL}),
        Case("gaussian_focal_loss", "losses.gaussian_focal_loss", {"n": 80 * 128 * 128}, {"n": SMALL}, _heat_map),
        Case("equalization_loss_v2", "losses.equalization_loss_v2", {"n": 2048, "c": 1204}, {"n": SMALL, "c": 80}, _long_tail),
        Case("concurrent_softmax", "losses.concurrent_softmax", {"n": 2048, "c": 500}, {"n": SMALL, "c": 80}, _several_labels),
        Case("balanced_group_softmax", "losses.balanced_group_softmax", tail, {**tail, "n": SMALL, "c": 80}, _groups),
        Case("lrp_error", "losses.lrp_error", {"n": 100_000}, {"n": SMALL}, _detections),
        Case("prime_sample_attention", "sampling.prime_sample_attention", {"n": 8192, "m": 40}, {"n": SMALL, "m": 4}, _predictions),
        Case("offset_bin_classification", "losses.offset_bin_classification", {"n": 100_000, "c": 40}, {"n": SMALL, "c": 40}, _offsets),
        Case("soft_balance_sampling", "sampling.soft_balance_sampling", {"n": 118_000, "c": 80}, {"n": SMALL, "c": 80}, _images),
        Case("proposal_selection", "sampling.proposal_selection", {"n": 20_000}, {"n": SMALL}, _proposals, compiled=False),
        Case("snip", "sampling.snip", {"n": 200_000}, {"n": SMALL}, _sized),
        Case("sniper", "sampling.sniper", {"n": 100}, {"n": 5}, _objects, compiled=False),
        Case("free_anchor", "assignment.free_anchor", {"n": 49_000, "c": 80, "m": 20}, {"n": SMALL, "c": 80, "m": 2}, _bags),
        Case("dynamic_label_assignment", "assignment.dynamic_label_assignment", {"n": 2_000, "m": 50}, {"n": SMALL, "m": 5}, _rising),
        Case("match, 1 000 objects", "ops.matching.match", {"n": 200_000, "m": 1_000}, {"n": SMALL, "m": 10}, compiled=False),
        Case("box_iou of all pairs", "ops.boxes.box_iou", {"m": 100, "n": 200_000}, {"m": 10, "n": SMALL}, _pairs),
        Case("nms, 1 000 boxes", "ops.nms.nms", {"n": 1_000}, {"n": SMALL}, _overlapping, compiled=False),
        Case("soft_nms, 1 000 boxes", "ops.soft_nms.soft_nms", {"n": 1_000}, {"n": SMALL}, _overlapping, compiled=False),
        Case("roi_align", "ops.roi_align", {"n": 128, "c": 256}, {"n": 8, "c": 16}, _regions),
        Case("precise_roi_pool", "ops.roi_align.precise_roi_pool", {"n": 128, "c": 256}, {"n": 8, "c": 16}, _regions),
        Case("deformable_conv", "ops.deformable.deformable_conv", {"c": 256, "h": 50, "w": 84}, {"c": 16, "h": 10, "w": 10}, _deformed),
    ]


# Arguments


def _from_names(function: Callable[..., Any], sizes: Sizes) -> Arguments:
    """Tensors for all arguments that have no default, and for the random numbers, so that every variant draws the same."""
    found: dict[str, Tensor] = {}
    role = torch.randperm(sizes["n"])
    for name, parameter in parameters(function).items():
        annotation = tensor_annotation(parameter.annotation)
        if annotation is None or (parameter.default is not parameter.empty and "noise" not in name):
            continue
        dims = [dim for dim in annotation.dim_str.split() if dim not in ("*batch", "*#batch")]
        shape = (sizes["n"], 4) if dims in (["*n"], ["4"]) else tuple(int(dim) if dim.isdigit() else sizes[dim] for dim in dims)
        found[name] = _tensor(name, annotation, shape, sizes, role)
    if "pred" in found:
        found["pred"] = found["target"] + torch.randn_like(found["target"])
    return found


def _tensor(name: str, annotation: Any, shape: tuple[int, ...], sizes: Sizes, role: Tensor) -> Tensor:
    objects = sizes.get("objects", 0)
    if annotation.dtype is Bool:
        return {"positive": role < objects, "negative": role >= 2 * objects}.get(name, torch.ones(shape, dtype=torch.bool))
    if annotation.dtype is Int:
        return torch.where(role < objects, torch.randint(sizes["c"], shape), sizes["c"])
    if name in BOXES and shape[-1:] == (4,):
        return _boxes(shape[0])
    if name == "target":
        return (sizes["bins"] - 1) * torch.rand(shape)
    if name == "logits":
        return 2 * torch.randn(shape) - 3
    if name == "frequency":
        return 0.005 * torch.rand(shape)
    return torch.rand(shape)


def _boxes(n: int) -> Tensor:
    corner = 800 * torch.rand(n, 2)
    return torch.cat((corner, corner + 8 + 200 * torch.rand(n, 2)), -1)


def _around(boxes: Tensor, n: int) -> Tensor:
    """Boxes that lie on one of the given ones, more or less."""
    return boxes[torch.randint(len(boxes), (n,))] + 10 * torch.randn(n, 1).abs() * torch.tensor([-1.0, -0.5, 0.5, 1.0])


def _logits(*shape: int) -> Tensor:
    return 2 * torch.randn(shape) - 3


def _heat_map(n: int) -> Arguments:
    return {"logits": _logits(n), "heat": torch.where(torch.rand(n) < 1e-4, 1, torch.rand(n) ** 8)}


def _long_tail(n: int, c: int) -> Arguments:
    gradient = torch.rand(2, c)
    return {
        "logits": _logits(n, c),
        "labels": torch.randint(c + 1, (n,)),
        "positive_gradient": gradient[0],
        "negative_gradient": gradient[1],
    }


def _several_labels(n: int, c: int) -> Arguments:
    return {"logits": _logits(n, c), "has_label": torch.rand(n, c) < 2 / c, "concurrence": torch.rand(c, c) ** 4}


def _offsets(n: int, c: int) -> Arguments:
    return {"logits": _logits(n, c), "target": 0.5 * torch.randn(n)}


def _groups(n: int, c: int, k: int) -> Arguments:
    return {
        "logits": _logits(n, c),
        "others": _logits(n, k),
        "background": _logits(n, 2),
        "labels": torch.where(torch.rand(n) < 0.25, torch.randint(c, (n,)), c),
        "group": torch.randint(k, (c,)),
        "noise": torch.rand(n, k),
    }


def _detections(n: int) -> Arguments:
    return {"iou": torch.rand(n), "matched": torch.rand(n) < 0.2, "count": torch.tensor(n // 4)}


def _predictions(n: int, m: int) -> Arguments:
    """A quarter of the predictions is positive."""
    truth, positive = torch.randint(m, (n,)), torch.rand(n) < 0.25
    labels = torch.where(positive, torch.randint(80, (m,))[truth], 80)
    return {"iou": torch.rand(n), "score": torch.rand(n), "labels": labels, "truth": truth, "positive": positive, "negative": ~positive}


def _images(n: int, c: int) -> Arguments:
    return {"has_label": torch.rand(n, c) < 0.05 + 0.2 * torch.rand(c) ** 2, "progress": torch.tensor(0.75)}


def _proposals(n: int) -> Arguments:
    return {"boxes": _around(_boxes(n // 10), n), "objectness": torch.rand(n)}


def _sized(n: int) -> Arguments:
    return {"boxes": _boxes(n), "size_range": torch.tensor([32.0, 150.0])}


def _objects(n: int) -> Arguments:
    return {"boxes": 1.7 * _boxes(n), "noise": torch.rand(n)}


def _bags(n: int, c: int, m: int) -> Arguments:
    boxes = _boxes(m)
    anchors = torch.cat((_boxes(n - n // 20), _around(boxes, n // 20)))
    return {
        "anchors": anchors,
        "logits": _logits(n, c),
        "deltas": 0.3 * torch.randn(n, 4),
        "boxes": boxes,
        "labels": torch.randint(c, (m,)),
    }


def _rising(n: int, m: int) -> Arguments:
    boxes = _boxes(m)
    return {"proposals": _around(boxes, n), "boxes": boxes, "threshold": torch.tensor(0.5)}


def _pairs(m: int, n: int) -> Arguments:
    return {"a": _boxes(m)[:, None], "b": _boxes(n)[None]}


def _overlapping(n: int) -> Arguments:
    return {"boxes": _around(_boxes(n // 5), n), "scores": torch.rand(n), "limit": n}


def _regions(n: int, c: int) -> Arguments:
    """On a level of stride 16 of an image of 800 by 1344 pixels."""
    return {"features": torch.randn(1, c, 50, 84), "boxes": _boxes(n)[None], "scale": 1 / 16}


def _deformed(c: int, h: int, w: int) -> Arguments:
    """Taps that look up to a few cells away."""
    return {
        "x": torch.randn(1, c, h, w),
        "offsets": 2 * torch.randn(1, 18, h, w),
        "weight": torch.randn(c, c, 3, 3) / (3 * c**0.5),
        "padding": 1,
    }
