"""Sampling: properties of boxes in, one weight for each box out; hard sampling gives 0 and 1."""

from reference_impl.sampling.bootstrapping import bootstrapping
from reference_impl.sampling.constant_weighting import constant_weighting
from reference_impl.sampling.example_selection import example_selection
from reference_impl.sampling.hard_example_retraining import hard_example_retraining
from reference_impl.sampling.hard_negative_cache import hard_negative_cache, mining_converged
from reference_impl.sampling.hard_negative_mining import hard_negative_mining
from reference_impl.sampling.iou_balanced_sampling import iou_balanced_sampling, truth_balanced_sampling
from reference_impl.sampling.iou_lower_bound import iou_lower_bound
from reference_impl.sampling.negative_anchor_filtering import negative_anchor_filtering
from reference_impl.sampling.objectness_prior import objectness_prior
from reference_impl.sampling.ohem import ohem
from reference_impl.sampling.online_foreground_balanced import online_foreground_balanced
from reference_impl.sampling.overlap_sampling import overlap_sampling, overlap_with_positives
from reference_impl.sampling.prime_sample_attention import nms_clusters, prime_sample_attention, score_hlr
from reference_impl.sampling.proposal_selection import proposal_selection
from reference_impl.sampling.random_sampling import random_sampling
from reference_impl.sampling.snip import snip, snip_ignored_anchors
from reference_impl.sampling.sniper import chip_targets, negative_chips, sniper
from reference_impl.sampling.soft_balance_sampling import soft_balance_sampling
from reference_impl.sampling.unified_sample_weighting import (
    SampleWeightingNetwork,
    averaged_log_variance,
    sample_weighting_loss,
    unified_sample_weighting,
)

__all__ = [
    "SampleWeightingNetwork",
    "averaged_log_variance",
    "bootstrapping",
    "chip_targets",
    "constant_weighting",
    "example_selection",
    "hard_example_retraining",
    "hard_negative_cache",
    "hard_negative_mining",
    "iou_balanced_sampling",
    "iou_lower_bound",
    "mining_converged",
    "negative_anchor_filtering",
    "negative_chips",
    "nms_clusters",
    "objectness_prior",
    "ohem",
    "online_foreground_balanced",
    "overlap_sampling",
    "overlap_with_positives",
    "prime_sample_attention",
    "proposal_selection",
    "random_sampling",
    "sample_weighting_loss",
    "score_hlr",
    "snip",
    "snip_ignored_anchors",
    "sniper",
    "soft_balance_sampling",
    "truth_balanced_sampling",
    "unified_sample_weighting",
]
