"""Laws of the anchor refinement and its connection to the detector."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from reference_impl.heads import (
    AnchorRefinementModule,
    TransferConnection,
    anchor_refinement,
    decode_offsets,
    ssd_detections,
    ssd_loss,
    ssd_targets,
)
from reference_impl.ops.boxes import box_iou
from reference_impl.ops.layout import per_anchor
from reference_impl.sampling import negative_anchor_filtering
from tools.scenes import CLASSES, SIDE, painted


class Detector(nn.Module):
    """Both steps on one level of 16 pixels, with two square anchors at each place."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(CLASSES, 16, 4, stride=4), nn.ReLU())
        self.first, self.connection = AnchorRefinementModule(16, 2), TransferConnection([16], width=16)
        self.classify, self.regress = nn.Conv2d(16, 2 * (CLASSES + 1), 3, padding=1), nn.Conv2d(16, 2 * 4, 3, padding=1)
        at = torch.arange(8.0, SIDE, 16)
        center = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).reshape(-1, 1, 2)
        half = torch.tensor([12.0, 18.0])[:, None]
        self.register_buffer("anchors", torch.cat((center - half, center + half), -1).flatten(0, 1))

    def forward(self, features: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor, Tensor]:
        """Logits and offsets of each step, the refined anchors, and their objectness."""
        level = self.backbone(features)
        offsets, logits = self.first(level)
        (level,) = self.connection([level])
        second = per_anchor(self.classify(level), anchors=2), per_anchor(self.regress(level), anchors=2)
        refined, objectness = anchor_refinement(self.anchors.expand_as(offsets), offsets.detach(), logits.detach())
        return (logits, offsets), second, refined, objectness


def losses(module: Detector, *, images: int, seed: int, device: str) -> list[Tensor]:
    """Of class and of place, in the first step and in the second, each over its positives: two times those of SSD."""
    features, boxes, labels = painted(images, seed=seed, device=device)
    first, second, refined, objectness = module(features)
    is_object, start = ssd_targets(module.anchors, boxes, 0 * labels, classes=1)
    label, target = ssd_targets(refined, boxes, labels, classes=CLASSES)
    shown = (label < CLASSES) | (objectness >= 0.01)
    sums = [x.sum() / (is_object < 1).sum() for x in ssd_loss(*first, is_object, start)]
    return sums + [x.sum() / (label < CLASSES).sum() for x in ssd_loss(*second, label, target, shown)]


def test_the_losses_of_ssd_train_both_steps(device: str) -> None:
    """On scenes not seen all four fall, the boxes get better from step to step, and the objects are found."""
    torch.manual_seed(0)
    module = Detector().to(device)
    with torch.no_grad():
        before = losses(module, images=16, seed=99, device=device)
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    for step in range(100):
        optimiser.zero_grad()
        sum(losses(module, images=8, seed=step % 6, device=device)).backward()
        optimiser.step()
    with torch.no_grad():
        after = losses(module, images=16, seed=99, device=device)
        features, boxes, labels = painted(16, seed=99, device=device)
        _, (logits, offsets), refined, _ = module(features)
    assert all(a < b for a, b in zip(after, before, strict=True)), (before, after)
    iou = [box_iou(x[..., None, :], boxes[:, None]) for x in (module.anchors.expand_as(refined), refined, decode_offsets(offsets, refined))]
    near = iou[0].amax(-1) >= 0.3
    assert iou[0].amax(-1)[near].mean() < iou[1].amax(-1)[near].mean() < iou[2].amax(-1)[near].mean()
    scores, _, kept = ssd_detections(logits, offsets, refined)
    sure = (kept & (scores > 0.5))[..., None, :CLASSES] & (torch.arange(CLASSES, device=device) == labels[:, None, :, None])
    assert (sure.any(-1) & (iou[2] > 0.5)).any(1).double().mean() > 0.8


def test_the_detector_learns_from_the_boxes_that_the_filter_leaves(device: str) -> None:
    """What is shown to the loss of SSD are the positives and the negatives that `negative_anchor_filtering` mines among."""
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 200, 4, generator=draw, dtype=torch.float64).to(device)
    labels = torch.randint(40, (3, 200), generator=draw).clamp(max=3).to(device)
    objectness = 0.02 * torch.rand(3, 200, generator=draw, dtype=torch.float64).to(device)
    positive, zeros = labels < 3, torch.zeros(3, 200, 4, dtype=torch.float64, device=device)
    found, _ = ssd_loss(logits, zeros, labels, zeros, positive | (objectness >= 0.01))
    loss = cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    torch.testing.assert_close(found, loss * negative_anchor_filtering(1 - objectness, loss, positive, ~positive))
    assert not found.equal(ssd_loss(logits, zeros, labels, zeros)[0])


def test_what_a_level_gets_comes_from_it_and_the_coarser_ones(device: str) -> None:
    torch.manual_seed(0)
    connection = TransferConnection([2, 3, 4], width=8).to(device)
    levels = [torch.randn(1, c, 4 * s, 6 * s, device=device) for c, s in ((2, 4), (3, 2), (4, 1))]
    before = connection(levels)
    for changed in range(3):
        after = connection([x + 1 if i == changed else x for i, x in enumerate(levels)])
        assert [not a.equal(b) for a, b in zip(after, before, strict=True)] == [i <= changed for i in range(3)]


def test_each_level_has_to_be_twice_the_next(device: str) -> None:
    connection = TransferConnection([2, 2], width=8).to(device)
    with pytest.raises(ValueError, match=r"`levels\[0\]` has size \(7, 8\); expected \(8, 8\)"):
        connection([torch.zeros(1, 2, 7, 8, device=device), torch.zeros(1, 2, 4, 4, device=device)])
