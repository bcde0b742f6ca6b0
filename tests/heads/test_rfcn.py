"""Laws of R-FCN's head, and that it trains on the hardest of all regions."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss

from reference_impl.heads import RFCN
from reference_impl.ops.boxes import box_iou, encode_deltas
from reference_impl.sampling import ohem


def box(*sides: float, device: str) -> Tensor:
    return torch.tensor([[sides]], dtype=torch.float64, device=device)


def test_every_region_is_scored_by_itself(device: str) -> None:
    head = RFCN(4, 3, bins=3, hidden=8).double().to(device)
    features = torch.rand(2, 4, 10, 12, dtype=torch.float64, device=device)
    regions = torch.cat([box(*sides, device=device) for sides in ((0, 0, 100, 90), (30, 20, 150, 140), (5, 60, 60, 150))], 1).expand(
        2, 3, 4
    )
    logits, deltas = head(features, regions)
    for i in range(3):
        alone = head(features, regions[:, i : i + 1])
        torch.testing.assert_close(logits[:, i : i + 1], alone[0])
        torch.testing.assert_close(deltas[:, i : i + 1], alone[1])


def test_only_what_lies_in_the_region_counts(device: str) -> None:
    head = RFCN(4, 3, bins=2, hidden=8).double().to(device)
    features = torch.rand(1, 4, 10, 12, dtype=torch.float64, device=device)
    region = box(32, 32, 96, 96, device=device)
    before, _ = head(features, region)
    outside = features.clone()
    outside[..., 6:, :] += 1
    outside[..., :2] += 1
    torch.testing.assert_close(head(outside, region)[0], before, rtol=1e-9, atol=1e-12)


def test_a_region_in_place_gets_all_votes_and_a_shifted_one_few(device: str) -> None:
    """Each quarter of an object has a feature of its own, and each map looks for its own quarter."""
    head = RFCN(4, 1, bins=2, hidden=4, stride=1).double().to(device)
    features = torch.zeros(1, 4, 16, 16, dtype=torch.float64, device=device)
    for part in range(4):
        y, x = 4 + 4 * (part // 2), 4 + 4 * (part % 2)
        features[0, part, y : y + 4, x : x + 4] = 1
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.hidden.weight[:, :, 0, 0] = torch.eye(4)
        head.classes.weight[:4, :, 0, 0] = torch.eye(4)
    in_place = head(features, box(4, 4, 12, 12, device=device))[0][0, 0, 0]
    assert in_place == 1
    for shift in (2, 4, -2, -4):
        shifted = head(features, box(4 + shift, 4, 12 + shift, 12, device=device))[0][0, 0, 0]
        assert shifted <= 1 - abs(shift) / 8


def test_it_learns_from_the_hardest_regions_alone(device: str) -> None:
    """All regions pass, the 12 of largest loss teach, and the loss of all falls."""
    torch.manual_seed(0)
    head = RFCN(3, 1, bins=3, hidden=16, stride=4).to(device)
    truth = torch.tensor([12.0, 8.0, 36.0, 28.0], device=device)
    features = 0.2 * torch.randn(1, 3, 12, 12, device=device)
    for i in range(3):
        features[0, i, 2:7, 3 + 2 * i : 5 + 2 * i] += 2
    corner, size = 40 * torch.rand(2, 60, 2, device=device)
    proposals = torch.cat((corner, (corner + size.clamp(min=6)).clamp(max=48)), -1)
    proposals[:15] = truth + 4 * torch.randn(15, 4, device=device)
    positive = box_iou(proposals, truth) >= 0.5
    assert 5 < positive.sum() < 40
    target = encode_deltas(truth, proposals)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.02)
    totals = []
    for _ in range(60):
        logits, deltas = head(features, proposals[None])
        loss = cross_entropy(logits[0], (~positive).long(), reduction="none")
        loss = loss + positive * smooth_l1_loss(deltas[0], target, reduction="none").sum(-1)
        weight = ohem(loss, torch.ones_like(positive), size=12)
        optimiser.zero_grad()
        ((weight * loss).sum() / 12).backward()
        optimiser.step()
        totals.append(loss.mean().item())
    assert totals[-1] < 0.75 * totals[0]
