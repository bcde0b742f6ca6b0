"""Imbalances as numbers: no method, but what the methods change."""

from reference_impl.measure.evenness import effective_number, shares
from reference_impl.measure.feature_level import Graph, Node, backbone_shares, boxes_per_level, cells_per_box, path_lengths, trace
from reference_impl.measure.properties import (
    boxes_per_cell,
    boxes_per_class,
    boxes_per_iou_bin,
    boxes_per_octave,
    boxes_per_pixel,
    foreground_background,
)

__all__ = [
    "Graph",
    "Node",
    "backbone_shares",
    "boxes_per_cell",
    "boxes_per_class",
    "boxes_per_iou_bin",
    "boxes_per_level",
    "boxes_per_octave",
    "boxes_per_pixel",
    "cells_per_box",
    "effective_number",
    "foreground_background",
    "path_lengths",
    "shares",
    "trace",
]
