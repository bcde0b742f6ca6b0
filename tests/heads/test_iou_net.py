"""Laws of IoU-Net."""

import torch
from torch import Tensor

from reference_impl.heads import IoUNet, iou_guided_nms, iou_prediction_loss, uniform_iou_boxes
from reference_impl.ops.boxes import box_iou
from tools.scenes import CLASSES, STRIDE, painted


def test_samples_are_uniform_over_iou(device: str) -> None:
    """Chi-square over ten equal parts of [0.5, 1]; 27.9 is exceeded once in a thousand."""
    draw = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[10.0, 20.0, 50.0, 40.0], [0.0, 0.0, 9.0, 90.0]], dtype=torch.float64)
    boxes = boxes.repeat(1000, 1).to(device)
    iou = box_iou(uniform_iou_boxes(boxes, torch.rand(2000, 5, generator=draw, dtype=torch.float64).to(device)), boxes)
    assert iou.min() >= 0.5 - 1e-9
    counts = torch.histc(iou.cpu(), 10, 0.5, 1.0)
    assert ((counts - 200).square() / 200).sum() < 27.9


def test_training_and_refinement(device: str) -> None:
    """The objective falls, the prediction ranks boxes, and climbing it moves boxes that were not seen to higher IoU."""
    torch.manual_seed(0)
    module = IoUNet(CLASSES, CLASSES, width=64, size=5, scale=1 / STRIDE).to(device)
    optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)

    def samples(seed: int, k: int = 16) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        features, boxes, labels = painted(8, seed=seed, device=device)
        boxes = boxes.repeat_interleave(k, 1)
        found = uniform_iou_boxes(boxes, torch.rand(8, 2 * k, 5, generator=torch.Generator().manual_seed(seed)).to(device))
        return features, found, box_iou(found, boxes), labels.repeat_interleave(k, 1)

    def objective(seed: int) -> Tensor:
        features, found, iou, labels = samples(seed)
        return iou_prediction_loss(module([features], found), iou, labels).mean()

    before = objective(99).item()
    for step in range(100):
        optimiser.zero_grad()
        objective(step % 8).backward()
        optimiser.step()
    assert objective(99).item() < 0.5 * before
    features, found, iou, labels = samples(99)
    predicted = module([features], found).gather(-1, labels[..., None]).squeeze(-1)
    assert torch.corrcoef(torch.stack((predicted.flatten(), iou.flatten())))[0, 1] > 0.5
    _, boxes, _ = painted(8, seed=99, device=device)
    climbed = module.refine([features], found, labels)
    better = box_iou(climbed, boxes.repeat_interleave(16, 1))
    assert better.mean() > iou.mean()
    assert not climbed.requires_grad


def test_refinement_climbs_the_prediction(device: str) -> None:
    """One small step raises it for almost every box, and no step leaves the boxes."""
    torch.manual_seed(0)
    module = IoUNet(CLASSES, CLASSES, width=16, size=3, scale=1 / STRIDE).double().to(device)
    features, boxes, labels = painted(4, seed=0, device=device, dtype=torch.float64)
    boxes = boxes + 3.0
    climbed = module.refine([features], boxes, labels, steps=1, rate=1e-3)
    before, after = (module([features], x).gather(-1, labels[..., None]) for x in (boxes, climbed))
    assert (after >= before).all()
    assert (after > before).any()
    torch.testing.assert_close(module.refine([features], boxes, labels, steps=0), boxes)


def test_suppression_against_a_loop(device: str) -> None:
    """Box by box: the best placed one is kept, takes the highest score of those it discards, and they are gone."""
    draw = torch.Generator().manual_seed(0)
    corner = 20 * torch.rand(30, 2, generator=draw)
    boxes = torch.cat((corner, corner + 10 + 10 * torch.rand(30, 2, generator=draw)), -1)
    scores, iou = torch.rand(2, 30, generator=draw)
    labels = torch.randint(2, (30,), generator=draw)
    left, expected = list(range(30)), torch.zeros(30)
    while left:
        best = max(left, key=lambda i: iou[i].item())
        group = [i for i in left if i == best or (labels[i] == labels[best] and box_iou(boxes[i], boxes[best]) > 0.5)]
        expected[best] = max(scores[i] for i in group)
        left = [i for i in left if i not in group]
    kept, found = iou_guided_nms(*(x.to(device) for x in (scores, iou, boxes, labels)))
    torch.testing.assert_close(found.cpu(), expected)
    assert kept.cpu().tolist() == (expected > 0).tolist()
