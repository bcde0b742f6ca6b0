"""Heads: features and boxes in, predictions out; a module where there are parameters."""

from reference_impl.heads.anchor_refinement import AnchorRefinementModule, anchor_refinement
from reference_impl.heads.attractionet import AttractioNet, in_out_boxes, in_out_loss, in_out_targets, multi_threshold_nms
from reference_impl.heads.cascade_rcnn import CascadeRCNN, cascade_detections, cascade_loss, cascade_scores, sample_rois, stage_targets
from reference_impl.heads.guided_anchoring import (
    GuidedAnchoring,
    guided_anchors,
    location_loss,
    location_targets,
    shape_loss,
    shape_targets,
)
from reference_impl.heads.hierarchical_finetuning import class_similarity, hierarchical_finetuning, hierarchical_groups
from reference_impl.heads.hierarchical_shot_detector import (
    HierarchicalShotDetector,
    HSDContext,
    hsd_boxes,
    hsd_detections,
    hsd_loss,
    hsd_targets,
)
from reference_impl.heads.multi_region_cnn import MultiRegionCNN, box_voting, multi_region_loss, multi_regions
from reference_impl.heads.objectness_module import ObjectnessModule, objectness_module, without_easy_anchors
from reference_impl.heads.optimal_bias import optimal_bias
from reference_impl.heads.prior_bias import prior_bias
from reference_impl.heads.residual_objectness import ResidualObjectnessHead, residual_objectness, residual_objectness_loss
from reference_impl.heads.side_aware_boundary_localization import (
    SideAwareBoundaryLocalization,
    bucket_targets,
    bucketing_loss,
    decode_buckets,
)
from reference_impl.heads.simcal import CalibrationHead, bilevel_sampling, draw_classes, simcal

__all__ = [
    "AnchorRefinementModule",
    "AttractioNet",
    "CalibrationHead",
    "CascadeRCNN",
    "GuidedAnchoring",
    "HSDContext",
    "HierarchicalShotDetector",
    "MultiRegionCNN",
    "ObjectnessModule",
    "ResidualObjectnessHead",
    "SideAwareBoundaryLocalization",
    "anchor_refinement",
    "bilevel_sampling",
    "box_voting",
    "bucket_targets",
    "bucketing_loss",
    "cascade_detections",
    "cascade_loss",
    "cascade_scores",
    "class_similarity",
    "decode_buckets",
    "draw_classes",
    "guided_anchors",
    "hierarchical_finetuning",
    "hierarchical_groups",
    "hsd_boxes",
    "hsd_detections",
    "hsd_loss",
    "hsd_targets",
    "in_out_boxes",
    "in_out_loss",
    "in_out_targets",
    "location_loss",
    "location_targets",
    "multi_region_loss",
    "multi_regions",
    "multi_threshold_nms",
    "objectness_module",
    "optimal_bias",
    "prior_bias",
    "residual_objectness",
    "residual_objectness_loss",
    "sample_rois",
    "shape_loss",
    "shape_targets",
    "simcal",
    "stage_targets",
    "without_easy_anchors",
]
