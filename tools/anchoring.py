"""Guided anchoring on painted scenes: what it is trained with, for the figure that shows its boxes and for its tests."""

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, smooth_l1_loss

from reference_impl.heads import GuidedAnchoring, guided_anchors, location_loss, location_targets, shape_loss, shape_targets
from reference_impl.ops.boxes import box_around, encode_deltas
from reference_impl.ops.matching import BACKGROUND, match
from tools.scenes import CLASSES, SIDE, STRIDE, painted

# Of the detector's squares, half the paper's, since the objects are small.
SCALE = 4.0


def squares(stride: int, device: str = "cpu", dtype: torch.dtype = torch.float32, *, scale: float = 8.0) -> Tensor:
    """One square of `scale` strides around the centre of each cell of a map of the scene, row by row."""
    at = stride * (torch.arange(SIDE // stride, device=device, dtype=dtype) + 0.5)
    center = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).flatten(0, 1)
    return box_around(center, scale * stride)


class SmallDetector(nn.Module):
    """A tower of one layer and guided anchoring behind it, on maps of half the size, which saves time."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Conv2d(CLASSES, 16, 7, padding=3), nn.ReLU())
        self.head = GuidedAnchoring(16, width=16)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Scenes -> anchors, the logits of their centres, which of them are there, their scores' logits, and their regression."""
        centers, shape, logits, deltas = self.head(self.tower(avg_pool2d(features, 2)))
        places = squares(2 * STRIDE, str(features.device), scale=SCALE).expand(len(features), -1, 4)
        anchors, kept = guided_anchors(places, shape, centers, threshold=0.2)
        return anchors, centers, kept, logits.squeeze(-1), deltas

    def losses(self, features: Tensor, boxes: Tensor) -> list[Tensor]:
        """Of location, shape, class and box."""
        anchors, centers, _, logits, deltas = self(features)
        places = squares(2 * STRIDE, str(features.device), scale=SCALE).expand(len(features), -1, 4)
        positive, negative = location_targets(places, boxes, scale=SCALE)
        of_location = location_loss(centers, positive, negative).sum() / (centers.numel() / 200)

        truth = shape_targets(places, boxes)
        assigned = truth >= 0
        of_shape = (shape_loss(anchors, _chosen(boxes, truth)) * assigned).sum() / assigned.sum()

        anchors = anchors.detach()
        found = match(anchors, boxes, positive=0.7, negative=0.3)
        used, on_object = found >= BACKGROUND, found >= 0
        of_class = binary_cross_entropy_with_logits(logits, on_object.float(), reduction="none")
        of_box = smooth_l1_loss(deltas, encode_deltas(_chosen(boxes, found), anchors), reduction="none").sum(-1)
        return [of_location, of_shape, (of_class * used).sum() / used.sum(), (of_box * on_object).sum() / on_object.sum().clamp(min=1)]


def trained(steps: int, device: str = "cpu") -> SmallDetector:
    """The detector after `steps` steps on four scenes each, of sixteen; always with the same random numbers."""
    torch.manual_seed(0)
    detector = SmallDetector().to(device)
    optimiser = torch.optim.Adam(detector.parameters(), lr=1e-2)
    for i in range(steps):
        features, boxes, _ = painted(4, seed=i % 4, device=device)
        optimiser.zero_grad()
        torch.stack(detector.losses(features, boxes)).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return detector


def _chosen(boxes: Tensor, index: Tensor) -> Tensor:
    return boxes.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, 4))
