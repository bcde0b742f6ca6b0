"""Pyramids: backbone or pyramid levels in, finest first, pyramid levels out; modules."""

from reference_impl.pyramids.augfpn import AugFPN, ConsistentSupervision, consistent_supervision_loss
from reference_impl.pyramids.auto_fpn import AutoFPN, AutoFPNSearch
from reference_impl.pyramids.balanced_feature_pyramid import BalancedFeaturePyramid
from reference_impl.pyramids.deep_reconfiguration import DeepReconfiguration
from reference_impl.pyramids.detnas import DetNAS, DetNASSearch
from reference_impl.pyramids.detnet import DetNet
from reference_impl.pyramids.efficient_featurized_image_pyramid import EfficientFeaturizedImagePyramid
from reference_impl.pyramids.fpn import FPN, roi_level
from reference_impl.pyramids.hit_detector import HitDetector
from reference_impl.pyramids.multi_level_fpn import MultiLevelFPN
from reference_impl.pyramids.multi_scale_contextual_features import ContextInjection, MultiScaleContextualFeatures
from reference_impl.pyramids.nas_fpn import NASFPN
from reference_impl.pyramids.parallel_fpn import ParallelFPN
from reference_impl.pyramids.path_aggregation import PathAggregation
from reference_impl.pyramids.pyramid_convolution import PyramidConvolution
from reference_impl.pyramids.scale_transfer import ScaleTransfer
from reference_impl.pyramids.sepc import SEPC, SEPCBranch
from reference_impl.pyramids.trident import Trident, scale_aware_assignment, scale_aware_boxes, scale_aware_detections
from reference_impl.pyramids.zoom_out_and_in import ZoomOutAndIn

__all__ = [
    "FPN",
    "NASFPN",
    "SEPC",
    "AugFPN",
    "AutoFPN",
    "AutoFPNSearch",
    "BalancedFeaturePyramid",
    "ConsistentSupervision",
    "ContextInjection",
    "DeepReconfiguration",
    "DetNAS",
    "DetNASSearch",
    "DetNet",
    "EfficientFeaturizedImagePyramid",
    "HitDetector",
    "MultiLevelFPN",
    "MultiScaleContextualFeatures",
    "ParallelFPN",
    "PathAggregation",
    "PyramidConvolution",
    "SEPCBranch",
    "ScaleTransfer",
    "Trident",
    "ZoomOutAndIn",
    "consistent_supervision_loss",
    "roi_level",
    "scale_aware_assignment",
    "scale_aware_boxes",
    "scale_aware_detections",
]
