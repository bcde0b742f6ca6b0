"""Losses: prediction and target in, one unreduced loss for each element out."""

from reference_impl.losses.alrp_loss import alrp_balance, alrp_loss
from reference_impl.losses.ap_loss import ap_loss
from reference_impl.losses.balanced_group_softmax import balanced_group_softmax, class_groups, group_scores
from reference_impl.losses.balanced_l1_loss import balanced_l1_loss
from reference_impl.losses.bounded_iou_loss import bounded_iou_loss
from reference_impl.losses.carl_loss import carl_loss, carl_weight
from reference_impl.losses.ciou_loss import aspect_difference, ciou_loss
from reference_impl.losses.concurrent_softmax import concurrent_scores, concurrent_softmax
from reference_impl.losses.diou_loss import diou_loss, diou_nms
from reference_impl.losses.direct_ap_loss import direct_ap_loss
from reference_impl.losses.distribution_focal_loss import distribution_focal_loss, expected_distance
from reference_impl.losses.dr_loss import dr_loss
from reference_impl.losses.dynamic_smooth_l1_loss import dynamic_beta, dynamic_smooth_l1_loss, smallest_target
from reference_impl.losses.equalization_loss import equalization_loss, equalization_weight
from reference_impl.losses.equalization_loss_v2 import equalization_loss_v2, equalization_v2_gradients, equalization_v2_scores
from reference_impl.losses.focal_loss import focal_loss, focal_weight
from reference_impl.losses.gaussian_focal_loss import corner_heat, corner_radius, gaussian_focal_loss
from reference_impl.losses.gaussian_yolo_loss import gaussian_yolo_loss, gaussian_yolo_score
from reference_impl.losses.ghm_c import ghm_bin_weight, ghm_c, ghm_c_counts, ghm_weight
from reference_impl.losses.ghm_r import authentic_smooth_l1, ghm_r, ghm_r_counts
from reference_impl.losses.giou_loss import giou_loss
from reference_impl.losses.huber_loss import huber_loss
from reference_impl.losses.iou_loss import iou_loss
from reference_impl.losses.kl_loss import kl_loss, variance_voting
from reference_impl.losses.l1_loss import l1_loss
from reference_impl.losses.l2_loss import l2_loss
from reference_impl.losses.lrp_error import lrp_error, lrp_of_classes, optimal_lrp
from reference_impl.losses.offset_bin_classification import expected_offset, offset_bin_classification
from reference_impl.losses.quality_focal_loss import quality_focal_loss
from reference_impl.losses.rank_sort_loss import rank_sort_loss
from reference_impl.losses.smooth_l1_loss import smooth_l1_loss

__all__ = [
    "alrp_balance",
    "alrp_loss",
    "ap_loss",
    "aspect_difference",
    "authentic_smooth_l1",
    "balanced_group_softmax",
    "balanced_l1_loss",
    "bounded_iou_loss",
    "carl_loss",
    "carl_weight",
    "ciou_loss",
    "class_groups",
    "concurrent_scores",
    "concurrent_softmax",
    "corner_heat",
    "corner_radius",
    "diou_loss",
    "diou_nms",
    "direct_ap_loss",
    "distribution_focal_loss",
    "dr_loss",
    "dynamic_beta",
    "dynamic_smooth_l1_loss",
    "equalization_loss",
    "equalization_loss_v2",
    "equalization_v2_gradients",
    "equalization_v2_scores",
    "equalization_weight",
    "expected_distance",
    "expected_offset",
    "focal_loss",
    "focal_weight",
    "gaussian_focal_loss",
    "gaussian_yolo_loss",
    "gaussian_yolo_score",
    "ghm_bin_weight",
    "ghm_c",
    "ghm_c_counts",
    "ghm_r",
    "ghm_r_counts",
    "ghm_weight",
    "giou_loss",
    "group_scores",
    "huber_loss",
    "iou_loss",
    "kl_loss",
    "l1_loss",
    "l2_loss",
    "lrp_error",
    "lrp_of_classes",
    "offset_bin_classification",
    "optimal_lrp",
    "quality_focal_loss",
    "rank_sort_loss",
    "smallest_target",
    "smooth_l1_loss",
    "variance_voting",
]
