"""What a sampler or a weight does to a batch: how balanced the batch is before and after, on real objects and a made-up classifier."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from reference_impl.measure import effective_number
from reference_impl.ops.boxes import box_area, box_around
from reference_impl.ops.matching import best_overlaps
from tools.catalog import Catalog
from tools.data import coco
from tools.golden import own_name, parameters, tensor_annotation

IMAGES, SHORT, LONGEST = 8, 320, 512
SIDES, RATIOS = (32.0, 64.0, 128.0, 256.0), (0.5, 1.0, 2.0)
STRIDE = 32
IOU_BINS = 5
POSITIVE = 0.5
# In place of defaults that are meant for more boxes than an image has here.
SMALLER = {"num_positives": 16, "before": 600, "after": 200}
# What is made up besides the probabilities, where a method takes it.
MADE_UP = {"log_variance": r"The log variance of each box is the one that its loss $L$ asks for, $\ln(L / \lambda)$ with $\lambda = 1/2$."}


BOTH = "foreground and background"


Spread = tuple[str, int, Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Batch:
    """Anchors of several images, or images of a data set, as arguments by name; what they are; and how weights fall on their kinds.

    A spread is a property by its name, the number of its kinds, and the function that gives each kind's share of the weights.
    """

    what: str
    arguments: dict[str, Tensor]
    spreads: list[Spread]


@dataclass(frozen=True)
class Effect:
    """One distribution of the batch: the effective number of its kinds before and after, and how many there could be."""

    name: str
    before: float
    after: float
    most: int


@dataclass(frozen=True)
class Outcome:
    """What is left of a batch: the weights' sums, over the positives too where there are any, and the distributions."""

    what: str
    boxes: float
    positives: float | None
    fewer: dict[str, int]
    effects: list[Effect]


@cache
def batch() -> Batch:
    """Anchors on the COCO images with most objects.

    The classifier is made up: it errs more on negatives the more they overlap an object, and is the surer of positives.
    """
    annotations = coco().resized(SHORT, LONGEST)
    crowded = annotations.valid.sum(-1).argsort(descending=True, stable=True)[:IMAGES]
    truths, labels, valid = annotations.boxes[crowded], annotations.labels[crowded], annotations.valid[crowded]
    centers = torch.cartesian_prod(torch.arange(STRIDE / 2, LONGEST, STRIDE), torch.arange(STRIDE / 2, LONGEST, STRIDE)).double()
    side, ratio = torch.cartesian_prod(torch.tensor(SIDES), torch.tensor(RATIOS)).double().T
    shapes = torch.stack((side * ratio.rsqrt(), side * ratio.sqrt()), -1)
    anchors = box_around(centers[:, None], shapes).reshape(-1, 4).expand(IMAGES, -1, -1)
    inside = (centers[None] < annotations.size[crowded, None]).all(-1).repeat_interleave(len(shapes), -1)
    found = best_overlaps(anchors, truths, valid)
    positive = inside & (found.iou >= POSITIVE)
    negative = inside & ~positive
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(found.iou.shape, generator=draw, dtype=torch.float64)
    p_s = torch.where(positive, (6 * found.iou - 4 + noise).sigmoid(), 1 - (8 * found.iou - 5 + noise).sigmoid())
    of_object = torch.where(positive, p_s, 1 - p_s)
    of_truth = labels.gather(-1, found.truth)
    positives = pad_sequence([some[chosen] for some, chosen in zip(anchors, positive, strict=True)], batch_first=True)
    known = {
        "boxes": anchors.contiguous(),
        "iou": torch.where(inside, found.iou, 0),
        "truth": found.truth,
        "labels": torch.where(positive, of_truth, len(annotations.classes)),
        "positive": positive,
        "negative": negative,
        "valid": inside,
        "p_s": p_s,
        "loss": -p_s.log(),
        "score": of_object,
        "objectness": of_object,
        "logits": of_object.logit(),
        "log_variance": (-2 * p_s.log()).log(),
        "overlap": best_overlaps(anchors, positives).iou,
    }
    counted = f"{positive.numel()} anchors on eight COCO images, {int(positive.sum())} of them positive"
    what = f"{counted}, with the probabilities of a made-up classifier."
    return Batch(what, known, _of_anchors(known, len(annotations.classes)))


@cache
def data_set() -> Batch:
    """All COCO images, when half of the training is over."""
    annotations = coco()
    classes = len(annotations.classes)
    shows = torch.zeros(len(annotations.labels), classes + 1).scatter(-1, annotations.labels, 1)[:, :classes].double()
    known = {"has_label": shows.bool()[None], "progress": torch.ones(1).double(), "valid": torch.ones(1, len(shows)).bool()}
    return Batch(
        f"{len(shows)} COCO images, chosen so that all classes are shown.",
        known,
        [("classes of the images", classes, lambda weight: weight.flatten() @ shows)],
    )


def outcome(catalog: Catalog, id: str) -> Outcome | None:
    """What the method does to the batch, or None where it takes what the batch does not have, or gives no weight for each box."""
    candidates = [(given, function) for given in (batch(), data_set()) if (function := _weighing(id, given))]
    if not candidates or catalog.methods[id].stage == "inference":
        return None
    given, function = candidates[0]
    torch.manual_seed(0)
    wanted = {name: x for name, x in given.arguments.items() if name in parameters(function)}
    fewer = {name: value for name, value in SMALLER.items() if name in parameters(function)}
    result = function(**wanted, **fewer)
    inside = given.arguments["valid"].double()
    weight = result.double() * inside
    effects = [
        Effect(name, effective_number(of(inside)).item(), effective_number(of(weight)).item(), most)
        for name, most, of in given.spreads
        if of(weight).sum() > 0
    ]
    positives = (weight * given.arguments["positive"]).sum().item() if "positive" in given.arguments else None
    if positives in (0, weight.sum().item()):
        effects = [effect for effect in effects if effect.name != BOTH]
    what = " ".join([given.what, *(note for name, note in MADE_UP.items() if name in wanted)])
    return Outcome(what, weight.sum().item(), positives, fewer, effects)


def _weighing(id: str, given: Batch) -> Callable[..., Any] | None:
    """The function of a method's module that turns what the batch has into a weight for each box."""
    module = import_module(f"reference_impl.{id}")
    own = own_name(id.split(".")[1], module.__all__)
    for name in [own] if id.startswith("sampling.") else [name for name in module.__all__ if name.endswith("weight")]:
        function = getattr(module, name)
        if isinstance(function, type):
            continue
        needed = [key for key, p in parameters(function).items() if p.default is p.empty and p.kind is not p.KEYWORD_ONLY]
        returned = tensor_annotation(inspect.signature(function, eval_str=True).return_annotation)
        if returned and returned.dim_str in ("*batch n", "*n") and all(key in given.arguments for key in needed):
            found: Callable[..., Any] = function
            return found
    return None


def _of_anchors(known: dict[str, Tensor], classes: int) -> list[Spread]:
    positive, negative = known["positive"], known["negative"]
    present = int((torch.bincount(known["labels"][positive]) > 0).sum())
    place = (known["iou"] / POSITIVE * IOU_BINS).long().clamp(max=IOU_BINS - 1)
    size = (box_area(known["boxes"]).sqrt() / SIDES[0]).log2().round().long()

    def spread(index: Tensor, kinds: int, among: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda weight: torch.zeros(kinds, dtype=weight.dtype).scatter_add(0, index[among], weight[among])

    everywhere = positive | negative
    return [
        (BOTH, 2, spread(negative.long(), 2, everywhere)),
        ("classes of the positives", present, spread(known["labels"], classes, positive)),
        ("IoU bins of the negatives", IOU_BINS, spread(place, IOU_BINS, negative)),
        ("sizes of the positives", len(SIDES), spread(size, len(SIDES), positive)),
    ]
