"""Laws of the IoU prediction of IoU-uniform R-CNN."""

import torch
from torch import Tensor

from reference_impl.generation import iou_uniform
from reference_impl.heads import IoUPrediction, iou_detections, iou_prediction_loss
from reference_impl.ops.boxes import box_iou, encode_deltas
from tools.scenes import CLASSES, STRIDE, jittered, painted


def head(device: str) -> IoUPrediction:
    torch.manual_seed(0)
    return IoUPrediction(CLASSES, width=32, scale=1 / STRIDE).to(device)


def losses(module: IoUPrediction, *, seed: int, device: str) -> Tensor:
    """With generated boxes, as many from each interval of the IoU."""
    features, boxes, _ = painted(6, seed=seed, device=device)
    truth = torch.arange(2, device=device).repeat_interleave(200).expand(6, -1)
    interval = torch.arange(4, device=device).repeat_interleave(50).repeat(2).expand(6, -1)
    noise = torch.rand(6, 400, 4, generator=torch.Generator().manual_seed(seed)).to(device)
    made, iou, chosen = iou_uniform(boxes, truth, interval, quota=torch.full((4,), 6, device=device), noise=noise)
    first = chosen.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :48]
    made, own = (x.gather(1, first[..., None].expand(-1, -1, 4)) for x in (made, boxes.gather(1, truth[..., None].expand(-1, -1, 4))))
    iou, chosen = iou.gather(1, first), chosen.gather(1, first)
    std = torch.tensor([0.1, 0.1, 0.2, 0.2], device=device)
    targets = torch.where(chosen[..., None], encode_deltas(own, made) / std, 0)
    of_iou, of_place = iou_prediction_loss(*module([features], made), iou, targets, chosen)
    return (of_iou.sum() + of_place.sum() / 4) / chosen.sum()


def test_it_learns_to_tell_how_well_a_box_fits(device: str) -> None:
    """On scenes not seen: the objective falls, predictions go with the IoUs, and boxes that are moved fit better."""
    module = head(device)
    with torch.no_grad():
        before = losses(module, seed=99, device=device)
    optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)
    for step in range(60):
        optimiser.zero_grad()
        losses(module, seed=step % 6, device=device).backward()
        optimiser.step()
    features, boxes, _ = painted(6, seed=99, device=device)
    proposals = jittered(boxes, each=20, seed=99, spread=0.12)
    own = boxes.repeat_interleave(20, dim=1)
    with torch.no_grad():
        assert losses(module, seed=99, device=device) < 0.5 * before
        iou, deltas = module([features], proposals)
    true = box_iou(proposals, own)
    assert torch.corrcoef(torch.stack((iou.flatten(), true.flatten())))[0, 1] > 0.4
    assert box_iou(module.refine(proposals, deltas), own).mean() > true.mean() + 0.05


def test_with_the_right_ious_the_best_boxes_survive(device: str) -> None:
    """Of twenty boxes around each object, all of the same class score or nearly so, those that fit best are detected."""
    _, boxes, _ = painted(6, seed=0, device=device)
    proposals = jittered(boxes, each=20, seed=0, spread=0.1)
    iou = box_iou(proposals[:, :, None], boxes[:, None]).amax(-1)
    tossed = torch.rand(*iou.shape, 3, generator=torch.Generator().manual_seed(0)).to(device)
    logits = 0.02 * tossed + torch.tensor([5.0, 0.0, 0.0], device=device)
    _, by_iou = iou_detections(logits, iou, proposals)
    _, by_class = iou_detections(logits, torch.ones_like(iou), proposals)
    best = box_iou(proposals[:, :, None], boxes[:, None]).amax(1)
    for kept, finds_them in ((by_iou, True), (by_class, False)):
        found = (box_iou(proposals[:, :, None], boxes[:, None]) * kept[..., :1]).amax(1)
        assert torch.allclose(found, best) == finds_them


def test_an_error_of_a_good_box_counts_three_times(device: str) -> None:
    iou = torch.linspace(0.505, 0.995, 50, dtype=torch.float64, device=device)
    zeros, ones = torch.zeros(50, 4, dtype=torch.float64, device=device), torch.full((50, 4), 0.1, dtype=torch.float64, device=device)
    of_iou, of_place = iou_prediction_loss(iou, ones, iou, zeros)
    assert (of_iou == 0).all()
    weight = of_place / of_place[0]
    for low, high, expected in ((0.5, 0.6, 1.0), (0.6, 0.7, 1.5), (0.7, 0.8, 2.0), (0.8, 1.0, 3.0)):
        inside = (iou > low) & (iou <= high)
        assert inside.any()
        torch.testing.assert_close(weight[inside], torch.full_like(weight[inside], expected))


def test_it_is_used_on_the_moved_boxes(device: str) -> None:
    """The predicted IoU is that of the boxes that come out, not of the proposals."""
    module = head(device)
    with torch.no_grad():
        module.regress.bias[2:] += 2
    features, boxes, _ = painted(2, seed=0, device=device)
    proposals = jittered(boxes, each=3, seed=0)
    logits = torch.zeros(2, 6, 3, device=device)
    scores, found, kept = module.detect([features], proposals, logits)
    moved = module.refine(proposals, module([features], proposals)[1])
    torch.testing.assert_close(found, moved)
    torch.testing.assert_close(scores, module([features], moved)[0][..., None].expand_as(scores) / 3)
    assert not torch.allclose(scores, module([features], proposals)[0][..., None] / 3)
    assert kept[..., :2].any()
    assert not kept[..., 2].any()
