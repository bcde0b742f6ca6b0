"""Laws of the Soft-IoU layer and the EM merger."""

import pytest
import torch
from torch import Tensor

from reference_impl.heads import (
    SoftIoU,
    agglomerative_clusters,
    detection_groups,
    detection_heat,
    distinct_gaussians,
    em_merger,
    merged_boxes,
    soft_iou_loss,
)
from reference_impl.ops.boxes import box_area, box_intersection, box_iou
from reference_impl.ops.nms import nms


def crowd(device: str) -> tuple[Tensor, Tensor]:
    """Two images with 40 detections around eight objects each, which stand side by side."""
    generator = torch.Generator().manual_seed(0)
    center = 30 * (torch.arange(40) % 8)[:, None] * torch.tensor([1.0, 0.0]) + 4 * torch.randn(2, 40, 2, generator=generator)
    size = 30 + 8 * torch.rand(2, 40, 2, generator=generator)
    boxes = torch.cat((center - size / 2, center + size / 2), -1).double()
    return boxes.to(device), (0.1 + 0.9 * torch.rand(2, 40, generator=generator).double()).to(device)


def slow_clusters(center: list[tuple[float, float]], weight: list[float], count: int) -> list[int]:
    """The definition: a list of clusters with centre, weight and members; join the nearest two."""
    clusters = [(x, y, w, [i]) for i, ((x, y), w) in enumerate(zip(center, weight, strict=True))]
    while len(clusters) > count:
        pairs = [(i, j) for j in range(len(clusters)) for i in range(j)]
        i, j = min(pairs, key=lambda p: (clusters[p[0]][0] - clusters[p[1]][0]) ** 2 + (clusters[p[0]][1] - clusters[p[1]][1]) ** 2)
        (x, y, v, some), (a, b, w, others) = clusters[i], clusters[j]
        clusters[i] = ((v * x + w * a) / (v + w), (v * y + w * b) / (v + w), v + w, some + others)
        del clusters[j]
    first = {k: min(members) for *_, members in clusters for k in members}
    return [first[k] for k in range(len(center))]


def objective(boxes: Tensor, score: Tensor, mean: Tensor, variance: Tensor, share: Tensor) -> Tensor:
    """The weighted mean of each detection's divergence from its nearest Gaussian, by the library's own formula."""
    center, spread = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 4
    detections = torch.distributions.Normal(center[..., :, None, :], spread[..., :, None, :])
    gaussians = torch.distributions.Normal(mean[..., None, :, :], variance.sqrt().clamp(min=1e-9)[..., None, :, :])
    divergence = torch.distributions.kl_divergence(detections, gaussians).sum(-1)
    nearest = divergence.masked_fill(share[..., None, :] == 0, torch.inf).amin(-1)
    return (score * nearest).sum(-1) / score.sum(-1)


def test_agglomeration_is_the_definition(device: str) -> None:
    boxes, score = crowd(device)
    count = torch.tensor([8, 3], device=device)
    found = agglomerative_clusters(boxes, score, count).tolist()
    for i in range(2):
        center = [tuple(x) for x in ((boxes[i, :, :2] + boxes[i, :, 2:]) / 2).tolist()]
        assert found[i] == slow_clusters(center, score[i].tolist(), int(count[i]))  # type: ignore[arg-type]


def test_no_round_makes_it_worse(device: str) -> None:
    boxes, score = crowd(device)
    start = torch.randint(0, 6, (2, 40), generator=torch.Generator().manual_seed(1)).to(device)
    last = torch.full((2,), torch.inf, dtype=torch.float64, device=device)
    for iterations in range(12):
        _, share, mean, variance = em_merger(boxes, score, start, iterations=iterations)
        now = objective(boxes, score, mean, variance, share)
        assert (now <= last + 1e-12).all()
        last = now
    assert (now < objective(boxes, score, *em_merger(boxes, score, start, iterations=0)[2:], share=share)).all()


def test_one_gaussian_has_the_moments_of_all(device: str) -> None:
    boxes, score = crowd(device)
    _, share, mean, variance = em_merger(boxes, score, torch.zeros(2, 40, dtype=torch.int64, device=device))
    draws = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
    draws = (draws - draws.mean()) / draws.std(correction=0)
    center, spread = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]) / 4
    points = center[..., None, :] + spread[..., None, :] * draws[:, None]
    weight = (score / score.sum(-1, keepdim=True))[..., None, None] / 200
    expected = (weight * points).sum((-3, -2))
    torch.testing.assert_close(share.sum(-1), torch.ones(2, dtype=torch.float64, device=device))
    torch.testing.assert_close(mean[:, 0], expected)
    torch.testing.assert_close(variance[:, 0], (weight * (points - expected[:, None, None]).square()).sum((-3, -2)))


def test_objects_side_by_side_are_told_apart(device: str) -> None:
    """Eight objects whose detections overlap their neighbours' come out as eight boxes."""
    boxes, score = crowd(device)
    count = torch.full((2,), 8, device=device)
    _, share, mean, variance = em_merger(boxes, score, agglomerative_clusters(boxes, score, count))
    found, best, present = merged_boxes(boxes, score, mean, variance, share > 0)
    assert present.sum(-1).tolist() == [8, 8]
    for i in range(2):
        x = ((found[i][present[i], 0] + found[i][present[i], 2]) / 2).sort().values
        assert (x - 30 * torch.arange(8, device=device)).abs().max() < 4
    assert (best[present] > 0).all()


def two_shelves(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """An image with eight objects side by side on either of two shelves, and six detections of each, spread until they touch the next."""
    x = 30 + 30 * torch.arange(8.0)[:, None] + torch.linspace(-7, 7, 6)
    y = torch.tensor([30.0, 130.0])[:, None, None]
    center = torch.stack(torch.broadcast_tensors(x, y), -1).flatten(0, 2).double()
    score = 0.5 + 0.4 * torch.rand(96, generator=torch.Generator().manual_seed(0)).double()
    boxes = torch.cat((center - 17, center + 17), -1)
    return torch.zeros(1, 170, 270, dtype=torch.float64, device=device), boxes.to(device), score.to(device)


def test_heat_is_the_sum_of_the_scores_where_all_centres_lie(device: str) -> None:
    center = torch.tensor([10.5, 12.5, 10.5, 12.5], dtype=torch.float64, device=device)
    side = torch.tensor([4.0, 9.0, 15.0], dtype=torch.float64, device=device)[:, None]
    boxes = center + side * torch.tensor([-1.0, -0.5, 1.0, 0.5], dtype=torch.float64, device=device)
    score = torch.tensor([0.25, 0.5, 0.875], dtype=torch.float64, device=device)
    heat = detection_heat(torch.zeros(1, 24, 22, dtype=torch.float64, device=device), boxes, score)
    torch.testing.assert_close(heat[12, 10], score.sum())
    assert heat.amax() == heat[12, 10]
    assert (heat >= 0).all()
    inside = (torch.arange(22, device=device) + 0.5 - 10.5).abs() < 7.5
    assert heat.amax(0).gt(0).equal(inside)


def test_a_shelf_is_a_group_and_what_fills_the_gaps_counts(device: str) -> None:
    """Detections fill 17 x 241 pixels, of which 17 x 17 are one object."""
    image, boxes, score = two_shelves(device)
    group, count = detection_groups(detection_heat(image, boxes, score), boxes)
    assert group.equal(torch.arange(96, device=device) // 48 * 48)
    assert ((count[[0, 48]] - 241 / 17).abs() < 1.5).all()
    assert count.count_nonzero() == 2


def test_a_larger_image_has_the_same_groups(device: str) -> None:
    image, boxes, score = two_shelves(device)
    large = torch.zeros(1, 3 * 170, 3 * 270, dtype=torch.float64, device=device)
    group, count = detection_groups(detection_heat(image, boxes, score), boxes)
    again, number = detection_groups(detection_heat(large, 3 * boxes, score), 3 * boxes)
    assert again.equal(group)
    assert ((number - count).abs() <= 1).all()


def test_the_whole_way_from_detections_to_objects(device: str) -> None:
    """More Gaussians than objects in each group, those that share an object dropped, medians, and the last suppression."""
    image, boxes, score = two_shelves(device)
    heat = detection_heat(image, boxes, score)
    group, count = detection_groups(heat, boxes)
    first = count.nonzero()
    member, number = group == first, count[first[:, 0]]
    heat, boxes, score = (x.expand(len(first), *x.shape) for x in (heat, boxes, score))
    start = agglomerative_clusters(boxes, score, number, member)
    _, share, mean, variance = em_merger(boxes, score, start, member)
    distinct = distinct_gaussians(heat, mean, variance, share > 0)
    assert ((share > 0).sum(-1) > 8).all()
    found, best, present = (x.flatten(0, 1) for x in merged_boxes(boxes, score, mean, variance, distinct, member))

    def covers(a: Tensor, b: Tensor) -> Tensor:
        return box_intersection(a, b) / box_area(a).minimum(box_area(b))

    kept = found[nms(found, best, present, limit=99, threshold=0.3, similarity=covers)]
    assert len(kept) == 16
    truth = torch.tensor([[30.0 * x - 17, y - 17, 30 * x + 17, y + 17] for y in (30, 130) for x in range(1, 9)], device=device)
    assert (box_iou(kept[:, None], truth).amax(0) > 0.6).all()


def test_what_is_left_does_not_overlap(device: str) -> None:
    """And what goes overlaps with something; circles, whose overlap is that of their radii."""
    generator = torch.Generator().manual_seed(0)
    mean, spread = 60 * torch.rand(40, 2, generator=generator), 2 + 3 * torch.rand(40, 1, generator=generator)
    heat = torch.rand(60, 60, generator=generator)
    mean, spread, heat = (x.double().to(device) for x in (mean, spread, heat))
    present = torch.rand(40, generator=generator).to(device) < 0.8
    left = distinct_gaussians(heat, mean, spread.square().expand(40, 2), present, smallest=0.0)
    radius = 2 * torch.tensor(2.0, dtype=torch.float64, device=device).log()
    radius = radius.sqrt() * spread
    touches = (mean[:, None] - mean).norm(dim=-1) < radius + radius.T
    touches.fill_diagonal_(False)
    assert not (left & ~present).any()
    assert not (touches & left & left[:, None]).any()
    assert (touches & present).any(-1)[present & ~left].all()
    assert 5 < left.sum() < present.sum()


def test_a_mass_is_a_part(device: str) -> None:
    nothing = torch.zeros(2, 2, device=device)
    for mass in (0.0, 1.0, 1.5):
        with pytest.raises(ValueError, match="distinct_gaussians"):
            distinct_gaussians(nothing, nothing, nothing, torch.ones(2, dtype=torch.bool, device=device), mass=mass)


def test_a_wild_size_does_no_harm(device: str) -> None:
    """The median of what a Gaussian gathers stays within the sizes of the other detections."""
    boxes, score = crowd(device)
    _, share, mean, variance = em_merger(boxes, score, torch.arange(40, device=device).remainder(8).expand(2, 40))
    wild = boxes.clone()
    wild[:, 3] += torch.tensor([-400.0, -400.0, 400.0, 400.0], dtype=torch.float64, device=device)
    found, _, present = merged_boxes(wild, score, mean, variance, share > 0)
    assert present[:, 3].all()
    assert (found[present][:, 2:] - found[present][:, :2]).max() < 38


def test_a_larger_image_gives_larger_gaussians(device: str) -> None:
    boxes, score = crowd(device)
    start = agglomerative_clusters(boxes, score, torch.full((2,), 8, device=device))
    cluster, share, mean, variance = em_merger(boxes, score, start)
    again = em_merger(3 * boxes + 7, score, start)
    assert cluster.equal(again[0])
    there = share > 0
    torch.testing.assert_close(again[2][there], 3 * mean[there] + 7)
    torch.testing.assert_close(again[3][there], 9 * variance[there])


def test_training_learns_the_overlap(device: str) -> None:
    torch.manual_seed(0)
    head = SoftIoU(4, 2, width=8).to(device)
    for layer in head.tower:
        torch.nn.init.kaiming_normal_(layer.weight)
    features = torch.randn(2, 4, 3, 3, device=device)
    target = torch.tensor([0.0, 0.0, 10.0, 10.0], device=device).expand(2, 18, 4)
    pred = target + 6 * torch.rand(2, 18, 4, device=device)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = soft_iou_loss(head(features), pred, target).mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < losses[0] - 0.02
