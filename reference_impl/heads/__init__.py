"""Heads: features and boxes in, predictions out; a module where there are parameters."""

from reference_impl.heads.anchor_refinement import AnchorRefinementModule, anchor_refinement
from reference_impl.heads.class_adaptive_threshold import class_adaptive_threshold
from reference_impl.heads.hierarchical_finetuning import class_similarity, hierarchical_finetuning, hierarchical_groups
from reference_impl.heads.objectness_module import ObjectnessModule, objectness_module, without_easy_anchors
from reference_impl.heads.optimal_bias import optimal_bias
from reference_impl.heads.prior_bias import prior_bias
from reference_impl.heads.residual_objectness import ResidualObjectnessHead, residual_objectness, residual_objectness_loss
from reference_impl.heads.rfcn import RFCN
from reference_impl.heads.simcal import CalibrationHead, bilevel_sampling, draw_classes, simcal

__all__ = [
    "RFCN",
    "AnchorRefinementModule",
    "CalibrationHead",
    "ObjectnessModule",
    "ResidualObjectnessHead",
    "anchor_refinement",
    "bilevel_sampling",
    "class_adaptive_threshold",
    "class_similarity",
    "draw_classes",
    "hierarchical_finetuning",
    "hierarchical_groups",
    "objectness_module",
    "optimal_bias",
    "prior_bias",
    "residual_objectness",
    "residual_objectness_loss",
    "simcal",
    "without_easy_anchors",
]
