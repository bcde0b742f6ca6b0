"""What the rules of scale do to real objects: which sizes a network meets without them, and which each resolution, branch or level gets."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from reference_impl.measure import boxes_per_octave, effective_number
from reference_impl.pyramids import roi_level, scale_aware_boxes
from reference_impl.sampling import chip_targets, snip, sniper
from tools.data import Annotations, coco

OCTAVES = ["below 32", "32 to 64", "64 to 128", "128 to 256", "256 to 512", "from 512"]
# Shorter and longer side, and the range of sizes in the image as it was: the released configuration of SNIPER for COCO.
RESOLUTIONS = {
    "1400 × 2000 pixels": (1400.0, 2000.0, 0.0, 80.0),
    "800 × 1280 pixels": (800.0, 1280.0, 32.0, 150.0),
    "512 pixels": (torch.inf, 512.0, 120.0, torch.inf),
}
BRANCHES = {"small": (0.0, 90.0), "middle": (30.0, 160.0), "large": (90.0, torch.inf)}


@dataclass(frozen=True)
class Part:
    """Sizes of the objects that one part of the training meets: how many in each octave, and how many octaves that is in effect."""

    name: str
    counts: list[int]
    effective: float


@dataclass(frozen=True)
class Scales:
    """What there is without the rule, the parts that the rule makes of it, and in a sentence what is counted."""

    what: str
    before: Part
    after: list[Part]

    @property
    def parts(self) -> list[Part]:
        return [self.before, *self.after]


@cache
def scales() -> dict[str, Scales]:
    """Each rule of scale on the objects of `catalog/data/`."""
    return {
        "sampling.snip": _of_resolutions("An object is counted at each of three resolutions, by its size there.", _in_range),
        "sampling.sniper": _of_resolutions(
            "As for SNIP, and after it each object in each chip that it reaches into, by the size of what can be seen of it.", _in_chips
        ),
        "pyramids.trident": _of_branches(),
        "pyramids.fpn": _of_levels(),
    }


def _of_resolutions(what: str, chosen: Callable[[Annotations, Tensor], tuple[Tensor, Tensor]]) -> Scales:
    original = coco()
    met, kept = [], []
    for short, longest, lowest, highest in RESOLUTIONS.values():
        resized = original.resized(short, longest)
        factor = (resized.size / original.size).mean(-1, keepdim=True)
        met.append(_octaves(resized.boxes, resized.valid))
        kept.append(_octaves(*chosen(resized, factor * factor.new_tensor([lowest, highest]))))
    return Scales(
        what,
        _part("all resolutions, without ranges", sum(met, torch.zeros_like(met[0]))),
        [
            *(_part(name, counts) for name, counts in zip(RESOLUTIONS, kept, strict=True)),
            _part("all of these", sum(kept, torch.zeros_like(kept[0]))),
        ],
    )


def _in_range(resized: Annotations, size_range: Tensor) -> tuple[Tensor, Tensor]:
    return resized.boxes, snip(resized.boxes, size_range, resized.valid) > 0


def _in_chips(resized: Annotations, size_range: Tensor) -> tuple[Tensor, Tensor]:
    boxes, among = _in_range(resized, size_range)
    chips, real = sniper(boxes, resized.size, among, torch.zeros_like(boxes[..., 0]))
    visible, _, found = chip_targets(boxes, chips, size_range, resized.valid)
    return visible, found & real[..., None]


def _of_branches() -> Scales:
    original, resized = coco(), coco().resized(800, 1333)
    ranges = original.boxes.new_tensor(list(BRANCHES.values())).expand(len(original.size), -1, -1)
    branches = (scale_aware_boxes(original.boxes, ranges) & original.valid[..., None]).unbind(-1)
    return Scales(
        "Each object counts by its size in an image of 800 × 1333 pixels. The ranges, of sizes in the image as it was, overlap.",
        _part("every branch, without ranges", _octaves(resized.boxes, resized.valid)),
        [_part(f"branch of {name} objects", _octaves(resized.boxes, among)) for name, among in zip(BRANCHES, branches, strict=True)],
    )


def _of_levels() -> Scales:
    resized = coco().resized(800, 1333)
    level = roi_level(resized.boxes)
    seen = resized.boxes * 2.0 ** (4 - level)[..., None]
    return Scales(
        "Each object counts by its size in cells of the map that it is pooled from, times 16, the pixels of a cell of C4.",
        _part("all on C4", _octaves(resized.boxes, resized.valid)),
        [
            *(_part(f"pooled from P{k}", _octaves(seen, resized.valid & (level == k))) for k in range(2, 6)),
            _part("all of these", _octaves(seen, resized.valid)),
        ],
    )


def _octaves(boxes: Tensor, among: Tensor) -> Tensor:
    return boxes_per_octave(boxes, among, octaves=len(OCTAVES)).flatten(0, -2).sum(0)


def _part(name: str, counts: Tensor) -> Part:
    return Part(name, counts.tolist(), effective_number(counts).item())
