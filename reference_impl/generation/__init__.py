"""Generation: boxes, features or images, and noise in; more of them out."""

from reference_impl.generation.adversarial_dropout import OcclusionNetwork, adversarial_dropout, hardest_window, occlusion_loss
from reference_impl.generation.adversarial_transformer import RotationNetwork, adversarial_transformer
from reference_impl.generation.context_guided_pasting import (
    ContextNetwork,
    background_contexts,
    candidate_boxes,
    context_frames,
    context_guided_pasting,
    drawn_places,
    fitting_instances,
    pasting_candidates,
    uncovered,
)
from reference_impl.generation.cut_paste import (
    blurred_mask,
    cut_paste,
    hides_another,
    motion_blur,
    poisson_blend,
    random_shift,
    scale_and_rotate,
)
from reference_impl.generation.feature_super_resolution import (
    FeatureDiscriminator,
    FeatureSuperResolution,
    TargetExtractor,
    choose_predictor,
    feature_discriminator_loss,
    feature_generator_loss,
    receptive_field_mismatch,
)
from reference_impl.generation.instance_switching import (
    carried_boxes,
    class_balanced_loss,
    instance_switching,
    switching_candidates,
    switching_weight,
)
from reference_impl.generation.iou_uniform import iou_uniform
from reference_impl.generation.positive_roi import bounding_box_generator, iou_quantile, positive_roi
from reference_impl.generation.task_aware_synthesis import (
    RealismNetwork,
    SynthesiserNetwork,
    discriminator_loss,
    synthesiser_loss,
    task_aware_synthesis,
)

__all__ = [
    "ContextNetwork",
    "FeatureDiscriminator",
    "FeatureSuperResolution",
    "OcclusionNetwork",
    "RealismNetwork",
    "RotationNetwork",
    "SynthesiserNetwork",
    "TargetExtractor",
    "adversarial_dropout",
    "adversarial_transformer",
    "background_contexts",
    "blurred_mask",
    "bounding_box_generator",
    "candidate_boxes",
    "carried_boxes",
    "choose_predictor",
    "class_balanced_loss",
    "context_frames",
    "context_guided_pasting",
    "cut_paste",
    "discriminator_loss",
    "drawn_places",
    "feature_discriminator_loss",
    "feature_generator_loss",
    "fitting_instances",
    "hardest_window",
    "hides_another",
    "instance_switching",
    "iou_quantile",
    "iou_uniform",
    "motion_blur",
    "occlusion_loss",
    "pasting_candidates",
    "poisson_blend",
    "positive_roi",
    "random_shift",
    "receptive_field_mismatch",
    "scale_and_rotate",
    "switching_candidates",
    "switching_weight",
    "synthesiser_loss",
    "task_aware_synthesis",
    "uncovered",
]
