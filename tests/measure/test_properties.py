"""Counts of boxes by property, worked out by hand, and the number that says how even they are."""

import torch
from torch import Tensor

from reference_impl.measure import (
    boxes_per_cell,
    boxes_per_class,
    boxes_per_iou_bin,
    boxes_per_octave,
    boxes_per_pixel,
    effective_number,
    foreground_background,
    shares,
)

ALL = [True, True, True, True]


def four(device: str) -> tuple[Tensor, Tensor]:
    """Sizes 8, 16, 40 and 2000 in an image of 200 x 100, the last one padding in the second image."""
    boxes = [[0.0, 0.0, 4.0, 16.0], [150.0, 10.0, 166.0, 26.0], [10.0, 60.0, 50.0, 100.0], [0.0, 0.0, 2000.0, 2000.0]]
    among = torch.tensor([ALL, [True, True, True, False]], device=device)
    return torch.tensor([boxes, boxes], dtype=torch.float64, device=device), among


def test_effective_number(device: str) -> None:
    """Even weights count fully, a single one counts as one, and 1/2, 1/4, 1/4 as 2^(3/2); nothing is nothing."""
    weight = torch.tensor([[3.0, 3.0, 3.0, 3.0], [7.0, 0.0, 0.0, 0.0], [2.0, 1.0, 1.0, 0.0], [0.0] * 4], dtype=torch.float64, device=device)
    torch.testing.assert_close(effective_number(weight), weight.new_tensor([4.0, 1.0, 2.0**1.5, 0.0]))
    torch.testing.assert_close(effective_number((100 * weight).long()).double(), effective_number(weight), rtol=1e-6, atol=0)
    torch.testing.assert_close(shares(weight)[2], weight.new_tensor([0.5, 0.25, 0.25, 0.0]))


def test_classes(device: str) -> None:
    labels = torch.tensor([[0, 2, 2, 3], [3, 3, 1, 0]], device=device)
    among = torch.tensor([ALL, [True, True, True, False]], device=device)
    assert foreground_background(labels, among, classes=3).tolist() == [[3, 1], [1, 2]]
    assert boxes_per_class(labels, among, classes=3).tolist() == [[1, 0, 2], [0, 1, 0]]


def test_octaves(device: str) -> None:
    boxes, among = four(device)
    assert boxes_per_octave(boxes, among, octaves=3).tolist() == [[2, 1, 1], [2, 1, 0]]


def test_iou_bins(device: str) -> None:
    iou = torch.tensor([[0.5, 0.74, 1.0, 0.4], [0.75, 0.99, 0.5, 0.9]], dtype=torch.float64, device=device)
    among = torch.tensor([ALL, [True, True, False, True]], device=device)
    assert boxes_per_iou_bin(iou, among, bins=2).tolist() == [[2, 1], [0, 3]]


def test_cells(device: str) -> None:
    boxes, among = four(device)
    size = torch.tensor([[200.0, 100.0], [200.0, 100.0]], dtype=torch.float64, device=device)
    assert boxes_per_cell(boxes, among, size, cells=2).tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_pixels_of_crossing_boxes(device: str) -> None:
    """A row and a column cross in one pixel; the box that does not count covers nothing."""
    boxes = torch.tensor([[0.0, 1.0, 3.0, 2.0], [1.0, 0.0, 2.0, 3.0], [0.0, 0.0, 3.0, 3.0]], dtype=torch.float64, device=device)
    among = torch.tensor([True, True, False], device=device)
    assert boxes_per_pixel(boxes, among, height=3, width=3).tolist() == [[0, 1, 0], [1, 2, 1], [0, 1, 0]]


def test_many_boxes_on_a_pixel_are_counted_under_autocast(device: str) -> None:
    """257 is no bfloat16."""
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0], device=device).expand(257, 4)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert boxes_per_pixel(boxes, torch.ones_like(boxes[:, 0], dtype=torch.bool), height=1, width=1).item() == 257
