"""Drawings: everything in its place, and every join seen."""

import re
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from reference_impl.measure import trace
from reference_impl.ops.roi_align import roi_align
from tests.inputs import CATALOG
from tools.diagrams import diagram, drawn
from tools.records import Drawing

DRAWINGS = [(id, drawing) for id, method in CATALOG.implemented.items() for drawing in method.drawings]


@pytest.mark.parametrize(("id", "drawing"), DRAWINGS, ids=[f"{id}-{drawing.call}" for id, drawing in DRAWINGS])
def test_no_box_hides_another(id: str, drawing: Drawing) -> None:
    svg = drawn(id, drawing)
    width, height = map(float, re.findall(r'viewBox="0 0 (\S+) (\S+)"', svg)[0])
    found = re.findall(r'<rect x="(\S+)" y="(\S+)" width="(\S+)" height="(\S+)"', svg)
    boxes = torch.tensor([[float(v) for v in box] for box in found])
    start, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    assert (start >= 0).all()
    assert (end <= torch.tensor([width, height])).all()
    for i, j in combinations(range(len(boxes)), 2):
        assert (start[i] >= end[j]).any() or (start[j] >= end[i]).any()


@pytest.mark.parametrize(("id", "drawing"), DRAWINGS, ids=[f"{id}-{drawing.call}" for id, drawing in DRAWINGS])
def test_everything_given_leads_somewhere(id: str, drawing: Drawing) -> None:
    """An edge starts at the right of every input, and ends at the left of every output."""
    svg = drawn(id, drawing)
    edges = [tuple(map(float, found)) for found in re.findall(r'd="M(\S+) (\S+)C.*? (\S+) (\S+)"', svg)]
    texts = {(kind, float(x), float(y) - 4) for kind, x, y in re.findall(r'<g class="(\w+)"><rect.*?/><text x="(\S+)" y="(\S+)">', svg)}
    starts, ends = {(x - 18, y) for x, y, _, _ in edges}, {(x + 18, y) for _, _, x, y in edges}
    assert {(x, y) for kind, x, y in texts if kind == "input"} <= starts
    assert {(x, y) for kind, x, y in texts if kind == "output"} <= ends


class Joined(nn.Module):
    """Pools from a map and mixes two of its pooled values in a way that has no symbol."""

    def forward(self, given: list[Tensor]) -> list[Tensor]:
        features, boxes = given
        pooled = roi_align(features, boxes, scale=0.5, size=2)
        return [torch.atan2(pooled, features.mean())]


def test_roi_align_is_one_operation() -> None:
    graph = trace(Joined(), [torch.rand(1, 3, 8, 8), torch.tensor([[[0.0, 0.0, 8.0, 8.0]]])])
    (pooled,) = (node for node in graph.nodes if node.op == "roi_align")
    assert pooled.sources == (0, 1)
    assert pooled.shape == (1, 1, 3, 2, 2)
    assert {node.op for node in graph.nodes} == {"input", "roi_align", "mean", "atan2"}


def test_a_join_without_a_symbol_has_its_name() -> None:
    graph = trace(Joined(), [torch.rand(1, 3, 8, 8), torch.tensor([[[0.0, 0.0, 8.0, 8.0]]])])
    assert re.findall(r">([^<>]+)</text>", diagram(graph, ["C", "boxes"], ["y"])) == ["C", "boxes", "RoI", "g avg", "atan2", "y"]
