"""Laws of position-sensitive pooling."""

import math

import pytest
import torch
from torch import Tensor

from reference_impl.ops.psroi import ps_roi_pool


def boxes(n: int, device: str) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    corner = 140 * torch.rand(2, n, 2, generator=draw, dtype=torch.float64) - 20
    return torch.cat((corner, corner + 90 * torch.rand(2, n, 2, generator=draw, dtype=torch.float64)), -1).to(device)


def test_as_counted_cell_by_cell(device: str) -> None:
    maps, regions, bins, stride = torch.rand(2, 18, 6, 8, dtype=torch.float64, device=device), boxes(10, device), 3, 16
    slow = torch.zeros(2, 10, 2, bins, bins, dtype=torch.float64, device=device)
    for b in range(2):
        for n in range(10):
            x1, y1, x2, y2 = (round(v) / stride for v in regions[b, n].tolist())
            for i in range(bins):
                for j in range(bins):
                    rows = range(max(0, math.floor(y1 + i * (y2 - y1) / bins)), min(6, math.ceil(y1 + (i + 1) * (y2 - y1) / bins)))
                    columns = range(max(0, math.floor(x1 + j * (x2 - x1) / bins)), min(8, math.ceil(x1 + (j + 1) * (x2 - x1) / bins)))
                    for c in range(2):
                        cells = [maps[b, (c * bins + i) * bins + j, y, x] for y in rows for x in columns]
                        slow[b, n, c, i, j] = sum(cells) / len(cells) if cells else 0
    torch.testing.assert_close(ps_roi_pool(maps, regions, bins=bins, stride=stride), slow)


def test_a_part_reads_its_own_map_alone(device: str) -> None:
    maps = torch.rand(1, 8, 6, 8, dtype=torch.float64, device=device)
    before = ps_roi_pool(maps, boxes(10, device)[:1], bins=2)
    for m in range(8):
        touched = maps.clone()
        touched[:, m] += 1
        changed = (ps_roi_pool(touched, boxes(10, device)[:1], bins=2) != before).any(1).flatten()
        assert changed.nonzero().flatten().tolist() == [m]


def test_halves_of_a_pixel_are_rounded_up(device: str) -> None:
    """As in C for what lies inside an image, not to even numbers: moving a box by a pixel moves what it reads by a cell."""
    maps = torch.arange(12.0, device=device).view(1, 1, 1, 12)
    regions = torch.tensor([[[0.5, 0.0, 2.5, 1.0], [1.5, 0.0, 3.5, 1.0], [2.5, 0.0, 4.5, 1.0]]], device=device)
    assert ps_roi_pool(maps, regions, bins=1, stride=1).flatten().tolist() == [1.5, 2.5, 3.5]


def test_an_even_map_is_its_value(device: str) -> None:
    maps = torch.full((2, 9, 6, 8), 1.25, device=device)
    found = ps_roi_pool(maps, boxes(30, device), bins=3)
    assert ((found == 1.25) | (found == 0)).all()
    inside = torch.tensor([[[3.0, 5.0, 100.0, 90.0]]], device=device).expand(2, 1, 4)
    assert (ps_roi_pool(maps, inside, bins=3) == 1.25).all()


def test_the_gradient_of_the_mean_is_the_share_of_each_cell(device: str) -> None:
    maps = torch.rand(1, 4, 3, 4, dtype=torch.float64, device=device, requires_grad=True)
    regions = boxes(5, device)[:1]
    assert torch.autograd.gradcheck(lambda x: ps_roi_pool(x, regions, bins=2), maps)


def test_a_number_of_maps_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="10 maps"):
        ps_roi_pool(torch.zeros(1, 10, 4, 4), torch.zeros(1, 2, 4), bins=3)
