"""Heads: features and boxes in, predictions out; a module where there are parameters."""

from reference_impl.heads.anchor_refinement import AnchorRefinementModule, anchor_refinement
from reference_impl.heads.hierarchical_finetuning import class_similarity, hierarchical_finetuning, hierarchical_groups
from reference_impl.heads.ms_cnn import (
    MSCNN,
    ContextDetector,
    FeatureUpsampling,
    assign_to_branches,
    branch_loss,
    context_boxes,
    decode_proposals,
    sample_negatives,
)
from reference_impl.heads.objectness_module import ObjectnessModule, objectness_module, without_easy_anchors
from reference_impl.heads.optimal_bias import optimal_bias
from reference_impl.heads.prior_bias import prior_bias
from reference_impl.heads.residual_objectness import ResidualObjectnessHead, residual_objectness, residual_objectness_loss
from reference_impl.heads.simcal import CalibrationHead, bilevel_sampling, draw_classes, simcal
from reference_impl.heads.ssd import SSD, decode_offsets, encode_offsets

__all__ = [
    "MSCNN",
    "SSD",
    "AnchorRefinementModule",
    "CalibrationHead",
    "ContextDetector",
    "FeatureUpsampling",
    "ObjectnessModule",
    "ResidualObjectnessHead",
    "anchor_refinement",
    "assign_to_branches",
    "bilevel_sampling",
    "branch_loss",
    "class_similarity",
    "context_boxes",
    "decode_offsets",
    "decode_proposals",
    "draw_classes",
    "encode_offsets",
    "hierarchical_finetuning",
    "hierarchical_groups",
    "objectness_module",
    "optimal_bias",
    "prior_bias",
    "residual_objectness",
    "residual_objectness_loss",
    "sample_negatives",
    "simcal",
    "without_easy_anchors",
]
