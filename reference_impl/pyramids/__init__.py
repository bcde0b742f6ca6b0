"""Pyramids: backbone or pyramid levels in, finest first, pyramid levels out; modules."""

from reference_impl.pyramids.fpn import FPN, roi_level
from reference_impl.pyramids.pyramid_convolution import PyramidConvolution

__all__ = ["FPN", "PyramidConvolution", "roi_level"]
