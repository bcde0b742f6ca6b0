"""Heads: features and boxes in, predictions out; a module where there are parameters."""

from reference_impl.heads.adaptive_feature_pooling import AdaptiveFeaturePooling
from reference_impl.heads.anchor_refinement import AnchorRefinementModule, TransferConnection, anchor_refinement
from reference_impl.heads.attractionet import AttractioNet, in_out_boxes, in_out_loss, in_out_targets, multi_threshold_nms
from reference_impl.heads.boosted_cascade import (
    BoostedCascade,
    average_overlapping,
    boosted_stage,
    majority_vote,
    mirrored_windows,
    rectangle_features,
)
from reference_impl.heads.cascade_rcnn import CascadeRCNN, cascade_detections, cascade_loss, cascade_scores, sample_rois, stage_targets
from reference_impl.heads.class_adaptive_threshold import class_adaptive_threshold
from reference_impl.heads.fad import FAD, FADTower, RepresentationSharing, fad_genotype
from reference_impl.heads.fine_grained_dynamic_head import FineGrainedDynamicHead, restricted_tanh
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
from reference_impl.heads.iou_net import IoUNet, iou_guided_nms, iou_net_loss, uniform_iou_boxes
from reference_impl.heads.iou_prediction import IoUPrediction, iou_detections, iou_prediction_loss
from reference_impl.heads.learning_to_rank import LearningToRank, pairwise_ranking_loss
from reference_impl.heads.meta_anchor import MetaAnchor, prior_code
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
from reference_impl.heads.multi_region_cnn import MultiRegionCNN, box_voting, multi_region_loss, multi_regions
from reference_impl.heads.objectness_module import GuidedRefinement, ObjectnessModule, objectness_module, without_easy_anchors
from reference_impl.heads.optimal_bias import anchor_counts, optimal_bias
from reference_impl.heads.overfeat import OverFeat, merge_predictions, overfeat_loss, window_targets
from reference_impl.heads.prior_bias import prior_bias
from reference_impl.heads.residual_objectness import ResidualObjectnessHead, residual_objectness, residual_objectness_loss
from reference_impl.heads.rfcn import RFCN
from reference_impl.heads.saf_rcnn import SAFRCNN, gated_scores, saf_rcnn_loss, scale_aware_weight
from reference_impl.heads.scale_dependent_pooling import (
    CascadedRejection,
    ScaleDependentPooling,
    scale_branch,
    scale_dependent_detections,
    scale_dependent_loss,
)
from reference_impl.heads.side_aware_boundary_localization import (
    DenseSideAwareBoundaryLocalization,
    SideAwareBoundaryLocalization,
    bucket_targets,
    bucketing_loss,
    decode_buckets,
)
from reference_impl.heads.simcal import CalibrationHead, bilevel_sampling, draw_classes, simcal
from reference_impl.heads.soft_iou import (
    SoftIoU,
    agglomerative_clusters,
    detection_groups,
    detection_heat,
    distinct_gaussians,
    em_merger,
    merged_boxes,
    soft_iou_loss,
    soft_iou_score,
)
from reference_impl.heads.soft_roi_selection import SoftRoISelection
from reference_impl.heads.ssd import SSD, decode_offsets, encode_offsets, ssd_detections, ssd_loss, ssd_targets

__all__ = [
    "FAD",
    "MSCNN",
    "RFCN",
    "SAFRCNN",
    "SSD",
    "AdaptiveFeaturePooling",
    "AnchorRefinementModule",
    "AttractioNet",
    "BoostedCascade",
    "CalibrationHead",
    "CascadeRCNN",
    "CascadedRejection",
    "ContextDetector",
    "DenseSideAwareBoundaryLocalization",
    "FADTower",
    "FeatureUpsampling",
    "FineGrainedDynamicHead",
    "GuidedAnchoring",
    "GuidedRefinement",
    "HSDContext",
    "HierarchicalShotDetector",
    "IoUNet",
    "IoUPrediction",
    "LearningToRank",
    "MetaAnchor",
    "MultiRegionCNN",
    "ObjectnessModule",
    "OverFeat",
    "RepresentationSharing",
    "ResidualObjectnessHead",
    "ScaleDependentPooling",
    "SideAwareBoundaryLocalization",
    "SoftIoU",
    "SoftRoISelection",
    "TransferConnection",
    "agglomerative_clusters",
    "anchor_counts",
    "anchor_refinement",
    "assign_to_branches",
    "average_overlapping",
    "bilevel_sampling",
    "boosted_stage",
    "box_voting",
    "branch_loss",
    "bucket_targets",
    "bucketing_loss",
    "cascade_detections",
    "cascade_loss",
    "cascade_scores",
    "class_adaptive_threshold",
    "class_similarity",
    "context_boxes",
    "decode_buckets",
    "decode_offsets",
    "decode_proposals",
    "detection_groups",
    "detection_heat",
    "distinct_gaussians",
    "draw_classes",
    "em_merger",
    "encode_offsets",
    "fad_genotype",
    "gated_scores",
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
    "iou_detections",
    "iou_guided_nms",
    "iou_net_loss",
    "iou_prediction_loss",
    "location_loss",
    "location_targets",
    "majority_vote",
    "merge_predictions",
    "merged_boxes",
    "mirrored_windows",
    "multi_region_loss",
    "multi_regions",
    "multi_threshold_nms",
    "objectness_module",
    "optimal_bias",
    "overfeat_loss",
    "pairwise_ranking_loss",
    "prior_bias",
    "prior_code",
    "rectangle_features",
    "residual_objectness",
    "residual_objectness_loss",
    "restricted_tanh",
    "saf_rcnn_loss",
    "sample_negatives",
    "sample_rois",
    "scale_aware_weight",
    "scale_branch",
    "scale_dependent_detections",
    "scale_dependent_loss",
    "shape_loss",
    "shape_targets",
    "simcal",
    "soft_iou_loss",
    "soft_iou_score",
    "ssd_detections",
    "ssd_loss",
    "ssd_targets",
    "stage_targets",
    "uniform_iou_boxes",
    "window_targets",
    "without_easy_anchors",
]
