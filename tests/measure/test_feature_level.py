"""The measures of feature-level imbalance, on pyramids whose numbers can be worked out by hand."""

import pytest
import torch
from torch import Tensor, nn

from reference_impl.measure import backbone_shares, boxes_per_level, cells_per_box, path_lengths, trace
from reference_impl.ops.levels import upsample_like
from reference_impl.pyramids import FPN, roi_level
from tools.data import coco


def levels(device: str, images: int = 1) -> list[Tensor]:
    return [torch.zeros(images, 1, size, size, dtype=torch.float64, device=device) for size in (8, 4)]


def mixed(given: list[Tensor]) -> list[Tensor]:
    """Twice the fine level plus the coarse one; the coarse one."""
    fine, coarse = given
    return [2 * fine + upsample_like(coarse, fine), coarse]


def test_shares_are_squared_factors(device: str) -> None:
    """Noise of the same strength enters with factors 2 and 1, so with variances 4 and 1."""
    torch.manual_seed(0)
    found = backbone_shares(mixed, levels(device, 400))
    torch.testing.assert_close(found, found.new_tensor([[0.8, 0.2], [0.0, 1.0]]), rtol=0.03, atol=0)


def test_shares_of_given_noise(device: str) -> None:
    """One noise value of 1 on a fine cell: gradient 2 on that cell, 1 on the coarse one above it, so 4 to 1 exactly."""
    given = levels(device)
    noise = [torch.zeros_like(x) for x in given]
    noise[0][0, 0, 3, 3] = 1
    found = backbone_shares(mixed, given, noise)
    torch.testing.assert_close(found, found.new_tensor([[0.8, 0.2], [0.0, 0.0]]))


def test_fpn_mixes_a_level_with_those_above_it(device: str) -> None:
    torch.manual_seed(0)
    pyramid = FPN([4, 4, 4], width=8).double().to(device)
    given = [torch.randn(2, 4, 16 >> i, 16 >> i, dtype=torch.float64, device=device) for i in range(3)]
    found = backbone_shares(pyramid, given)
    torch.testing.assert_close(found.sum(-1), torch.ones_like(found[0]))
    assert (found > 0).equal(torch.ones(3, 3, dtype=torch.bool, device=device).triu())


def test_cells(device: str) -> None:
    boxes = torch.tensor([[0.0, 0.0, 32.0, 16.0], [0.0, 0.0, 224.0, 224.0], [5.0, 5.0, 5.0, 9.0]], dtype=torch.float64, device=device)
    level = torch.tensor([2, 4, 3], device=device)
    torch.testing.assert_close(cells_per_box(boxes, level), boxes.new_tensor([32.0, 196.0, 0.0]))


def test_boxes_per_level(device: str) -> None:
    level = torch.tensor([[2, 5, 5, 3], [4, 4, 2, 2]], device=device)
    valid = torch.tensor([[True, True, True, False], [True, True, True, True]], device=device)
    assert boxes_per_level(level, valid).tolist() == [[1, 0, 0, 2], [2, 0, 2, 0]]


def test_levels_of_real_boxes() -> None:
    """A box that is no smaller than P2's octave and no larger than P5's covers between 14 x 14 and 28 x 28 cells on its level."""
    annotations = coco().resized(800, 1333)
    level = roi_level(annotations.boxes)
    size = (annotations.boxes[..., 2:] - annotations.boxes[..., :2]).prod(-1).sqrt()
    within = annotations.valid & (size >= 56) & (size < 896)
    cells = cells_per_box(annotations.boxes, level)[within].sqrt()
    assert within.sum() > 900
    assert cells.min() > 14 * (1 - 1e-5)
    assert cells.max() < 28
    assert boxes_per_level(level, annotations.valid).sum() == annotations.valid.sum()


class Detour(nn.Module):
    """The coarse level reaches the fine one by two convolutions, or past them by one; no way leads up."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.short = (nn.Conv2d(1, 1, 3, padding=1) for _ in range(3))

    def forward(self, given: list[Tensor]) -> list[Tensor]:
        fine, coarse = given
        coarse = coarse.relu_()
        return [fine + upsample_like(self.second(self.first(coarse)) * self.short(coarse).sigmoid(), fine), self.first(coarse)]


@pytest.mark.parametrize("where", ["cpu", "meta"])
def test_path_lengths(where: str) -> None:
    graph = trace(Detour().to(where), [x.float() for x in levels(where)])
    assert path_lengths(graph).tolist() == [[0, 1], [-1, 1]]
    assert [graph.nodes[i].shape for i in graph.outputs] == [(1, 1, 8, 8), (1, 1, 4, 4)]
    assert sum(node.op == "convolution" for node in graph.nodes) == 4
