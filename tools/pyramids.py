"""Every pyramid on the same backbone: its graph, its size, and what of the backbone reaches each of its levels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from markupsafe import Markup
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from reference_impl.measure import Graph, backbone_shares, cells_per_box, effective_number, path_lengths, trace
from reference_impl.pyramids import roi_level
from tools.assemble import BACKBONE, assemble
from tools.catalog import Catalog
from tools.data import coco
from tools.diagrams import diagram

# Height and width for sizes and costs, for the drawing, and for the shares; how much narrower the shares' pyramid is, and their images.
IMAGE, DRAWN, SMALL = (800, 1333), (1024, 1024), (128, 128)
SHRINK, IMAGES = 16, 2


@dataclass(frozen=True)
class Measured:
    """A pyramid at its paper's width; `shares`, `effective` and `paths` have a row for each pyramid level."""

    backbone: Sequence[str]
    levels: list[str]
    parameters: int
    gigaflops: float
    shares: list[list[float]]
    effective: list[float]
    paths: list[list[int]]
    drawing: Markup


def measure(catalog: Catalog, id: str) -> Measured:
    """Measure the pyramid `id` at initialisation, always with the same random numbers.

    A multiplication and an addition are two operations. Parameters and operations include those of the pyramid that it refines.
    """
    assembly = catalog.implemented[id].pyramid
    assert assembly
    with torch.device("meta"):
        full = assemble(catalog, id).eval()
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        full(_levels(assembly.backbone, IMAGE, "meta"))
    graph = trace(full, _levels(assembly.backbone, DRAWN, "meta"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        narrow = assemble(catalog, id, shrink=SHRINK).eval()
        shares = backbone_shares(narrow, _levels(assembly.backbone, SMALL, "cpu"))
    return Measured(
        backbone=assembly.backbone,
        levels=_names(graph),
        parameters=sum(p.numel() for p in full.parameters()),
        gigaflops=flops.get_total_flops() / 1e9,
        shares=shares.tolist(),
        effective=effective_number(shares).tolist(),
        paths=path_lengths(graph).tolist(),
        drawing=diagram(graph, assembly.backbone, _names(graph)),
    )


@dataclass(frozen=True)
class Spread:
    """How many cells the boxes of a level cover."""

    level: int
    count: int
    fewest: float
    median: float
    most: float

    @property
    def stride(self) -> int:
        return 1 << self.level


@dataclass(frozen=True)
class BoxStatistics:
    """Real boxes on FPN's levels, and all of them on one."""

    images: int
    count: int
    rows: list[Spread]
    single: Spread


def box_statistics() -> BoxStatistics:
    """The boxes of `catalog/data/`, on images with a shorter side of 800 pixels."""
    annotations = coco().resized(800, 1333)
    boxes = annotations.boxes[annotations.valid]
    level = roi_level(boxes)

    def spread(k: int, among: Tensor) -> Spread:
        cells = cells_per_box(boxes[among], torch.full_like(level[among], k))
        return Spread(k, len(cells), cells.min().item(), cells.median().item(), cells.max().item())

    rows = [spread(k, level == k) for k in range(2, 6)]
    return BoxStatistics(len(annotations.size), len(boxes), rows, spread(4, level > 0))


def _levels(names: Sequence[str], image: tuple[int, int], device: str) -> list[Tensor]:
    """Backbone levels of an image on the `meta` device, or narrow ones of several images that are noise."""
    shapes = [(BACKBONE[name][0], *(math.ceil(side / BACKBONE[name][1]) for side in image)) for name in names]
    if device == "meta":
        return [torch.empty(1, *shape, device="meta") for shape in shapes]
    return [torch.randn(IMAGES, c // SHRINK, h, w) for c, h, w in shapes]


def _names(graph: Graph) -> list[str]:
    return [f"P{round(math.log2(DRAWN[0] / graph.nodes[i].shape[-2]))}" for i in graph.outputs]
