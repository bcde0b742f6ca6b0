"""Imbalances as numbers: no method, one module a problem."""

from reference_impl.measure.feature_level import (
    Graph,
    Node,
    backbone_shares,
    boxes_per_level,
    cells_per_box,
    effective_levels,
    path_lengths,
    trace,
)

__all__ = [
    "Graph",
    "Node",
    "backbone_shares",
    "boxes_per_level",
    "cells_per_box",
    "effective_levels",
    "path_lengths",
    "trace",
]
