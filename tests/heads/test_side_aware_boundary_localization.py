"""Laws of side-aware boundary localisation."""

import torch
from torch import Tensor

from reference_impl.heads import (
    DenseSideAwareBoundaryLocalization,
    SideAwareBoundaryLocalization,
    bucket_targets,
    bucketing_loss,
    decode_buckets,
)


def proposals_and_truth(device: str) -> tuple[Tensor, Tensor]:
    """Two images with 50 proposals, some of whose true sides lie far off."""
    generator = torch.Generator().manual_seed(0)
    corner, size, shift = (torch.rand(2, 50, k, generator=generator, dtype=torch.float64) for k in (2, 2, 4))
    proposals = 200 * torch.cat((corner, corner + size + 0.1), -1)
    return proposals.to(device), (proposals + 60 * (shift - 0.5)).to(device)


def test_decoding_the_targets_gives_the_truth(device: str) -> None:
    proposals, boxes = proposals_and_truth(device)
    for scale in (1.0, 1.7, 3.0):
        bucket, _, offset, _ = bucket_targets(boxes, proposals, scale=scale)
        logits = 50 * torch.nn.functional.one_hot(bucket, 7).double()
        decoded, confidence = decode_buckets(logits, offset, proposals, scale=scale)
        torch.testing.assert_close(decoded, boxes)
        torch.testing.assert_close(confidence, torch.ones_like(confidence))


def test_a_side_within_the_enlarged_half_is_at_most_half_a_bucket_away(device: str) -> None:
    proposals, _ = proposals_and_truth(device)
    center = (proposals[..., :2] + proposals[..., 2:]) / 2
    half = 1.7 * (proposals[..., 2:] - center)
    for share in (0.001, 0.3, 0.5, 0.77, 0.999):
        boxes = torch.cat((center - share * half, center + share * half), -1)
        bucket, _, offset, regressed = bucket_targets(boxes, proposals)
        assert offset.gather(-1, bucket[..., None]).abs().max() <= 0.5 + 1e-9
        assert offset[regressed].abs().max() < 1


def test_a_mirror_image_exchanges_the_sides(device: str) -> None:
    proposals, boxes = proposals_and_truth(device)
    mirrored = bucket_targets(-boxes.roll(2, -1), -proposals.roll(2, -1))
    for (there, here), sign in zip(zip(mirrored, bucket_targets(boxes, proposals), strict=True), (1, 1, -1, 1), strict=True):
        expected = here.roll(2, 2) if sign == 1 else -here.roll(2, 2)
        torch.testing.assert_close(there, expected)


def test_every_side_has_one_to_two_buckets_that_regress(device: str) -> None:
    proposals, boxes = proposals_and_truth(device)
    bucket, classified, _, regressed = bucket_targets(boxes, proposals)
    assert (regressed.sum(-1) >= 1).all()
    assert (regressed.sum(-1) <= 2).all()
    assert (classified | regressed).all(), "what is not classified is a near neighbour, and so regresses"
    assert classified.gather(-1, bucket[..., None]).all()


def test_confidence_of_an_even_distribution(device: str) -> None:
    """Of seven equal buckets, the first and its neighbour."""
    even = torch.zeros(1, 1, 4, 7, dtype=torch.float64, device=device)
    _, confidence = decode_buckets(even, even, torch.ones(1, 1, 4, dtype=torch.float64, device=device))
    torch.testing.assert_close(confidence, torch.full_like(confidence, 2 / 7))


def test_a_transposed_region_exchanges_the_axes(device: str) -> None:
    """With the same weights for both axes, the head of a transposed region gives y for x."""
    torch.manual_seed(0)
    head = SideAwareBoundaryLocalization(6).double().to(device)
    for x, y in ((head.along_x, head.along_y), (head.double_x, head.double_y), (head.attention_x, head.attention_y)):
        y.load_state_dict(x.state_dict())
    for layer in head.refine:
        layer.weight.data = layer.weight.data + layer.weight.data.mT
    features = torch.randn(3, 6, 7, 7, dtype=torch.float64, device=device)
    for there, here in zip(head(features.mT), head(features), strict=True):
        torch.testing.assert_close(there, here[:, [1, 0, 3, 2]])


def test_training_finds_the_boxes(device: str) -> None:
    """A few steps on regions that tell their objects apart: both losses fall, and the boxes come closer."""
    torch.manual_seed(0)
    head = SideAwareBoundaryLocalization(8).to(device)
    proposals = torch.tensor([[20.0, 20.0, 60.0, 60.0]], device=device).expand(16, 4)
    boxes = proposals + 24 * torch.rand(16, 4, device=device) - 12
    features = torch.randn(16, 8, 7, 7, device=device)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.01)
    seen: list[tuple[float, float]] = []
    for _ in range(60):
        logits, offset = head(features)
        of_buckets, of_offsets = bucketing_loss(logits, offset, boxes, proposals)
        seen.append((of_buckets.mean().item(), of_offsets.mean().item()))
        optimiser.zero_grad()
        (of_buckets.mean() + of_offsets.mean()).backward()
        optimiser.step()
    assert seen[-1][0] < 0.5 * seen[0][0]
    assert seen[-1][1] < 0.8 * seen[0][1]
    decoded, _ = decode_buckets(*head(features), proposals)
    assert (decoded - boxes).abs().mean() < 0.8 * (proposals - boxes).abs().mean()


def test_squares_overlap_by_three_quarters(device: str) -> None:
    """Each is four strides wide, and its neighbour is a stride away, to the right and below."""
    head = DenseSideAwareBoundaryLocalization(2, width=4).double().to(device)
    logits, offset, squares = head(torch.zeros(2, 2, 3, 5, dtype=torch.float64, device=device), 8)
    assert logits.shape == offset.shape == (2, 15, 4, 7)
    apart = squares.view(2, 3, 5, 4)
    assert (apart[:, :, 1:] - apart[:, :, :-1]).equal(torch.tensor([8.0, 0, 8, 0], dtype=torch.float64, device=device).expand(2, 3, 4, 4))
    assert (apart[:, 1:] - apart[:, :-1]).equal(torch.tensor([0.0, 8, 0, 8], dtype=torch.float64, device=device).expand(2, 2, 5, 4))
    assert squares[0, 0].tolist() == [-16, -16, 16, 16]


def test_the_dense_branch_learns(device: str) -> None:
    """Every location is taught the object whose corners the features show it, relative to its square."""
    torch.manual_seed(0)
    head = DenseSideAwareBoundaryLocalization(4, width=16, bins=3).double().to(device)
    shown = 2 * torch.rand(2, 4, 5, 5, dtype=torch.float64, device=device) - 1
    shift = 8 * shown.flatten(2).mT
    optimiser = torch.optim.Adam(head.parameters(), lr=0.01)
    course = []
    for _ in range(60):
        logits, offset, squares = head(shown, 8)
        loss = sum(x.mean() for x in bucketing_loss(logits, offset, squares + shift, squares, scale=3))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        course.append(loss.item())
    assert course[-1] < course[0] / 2
