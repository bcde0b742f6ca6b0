"""Pyramids: backbone or pyramid levels in, finest first, pyramid levels out; modules."""

from reference_impl.pyramids.fpn import FPN, roi_level

__all__ = ["FPN", "roi_level"]
