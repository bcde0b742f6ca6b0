"""Laws of Trident Networks."""

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from reference_impl.ops.boxes import box_iou
from reference_impl.ops.nms import nms
from reference_impl.pyramids import Trident, scale_aware_assignment, scale_aware_boxes, scale_aware_detections

RANGES = [[0.0, 90.0], [30.0, 160.0], [90.0, float("inf")]]


def features(device: str, size: int = 15) -> Tensor:
    return torch.randn(2, 16, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)


def trident(device: str, blocks: int = 1) -> Trident:
    torch.manual_seed(0)
    return Trident([16], blocks=blocks).double().to(device)


def test_a_branch_sees_as_far_as_its_dilation(device: str) -> None:
    """Two blocks of dilation d reach 2 d cells from a change, in both directions, and no farther."""
    x, module = features(device).abs(), trident(device, blocks=2).eval()
    touched = x.clone()
    touched[..., 7, 7] += 5
    for d, (before, after) in enumerate(zip(module([x]), module([touched]), strict=True), 1):
        rows, columns = (before != after).any(1).any(0).nonzero().T.tolist()
        assert (min(rows), max(rows)) == (min(columns), max(columns)) == (7 - 2 * d, 7 + 2 * d)


def test_the_middle_branch_is_a_module_of_its_own(device: str) -> None:
    """At inference a detector may keep one branch: it takes the same state, since the weights are shared."""
    module = trident(device, blocks=2)
    module([features(device)])
    alone = Trident([16], (2,), blocks=2).double().to(device)
    alone.load_state_dict(module.state_dict())
    (single,) = alone.eval()([features(device)])
    assert single.equal(module.eval()([features(device)])[1])


def test_branches_agree_where_dilation_does_not_matter(device: str) -> None:
    """A single cell meets only the middle of each kernel."""
    small, middle, large = trident(device).eval()([features(device, 1)])
    torch.testing.assert_close(small, middle)
    torch.testing.assert_close(large, middle)


def test_every_size_has_a_branch(device: str) -> None:
    side = torch.linspace(1, 800, 400, dtype=torch.float64, device=device)
    boxes = torch.stack((0 * side, 0 * side, side, side), -1)
    belongs = scale_aware_boxes(boxes, torch.tensor(RANGES, dtype=torch.float64, device=device))
    assert belongs.any(-1).all()
    assert belongs.sum(-1).max() == 2
    assert (belongs.long().diff(dim=0)[:, 0] <= 0).all()
    assert (belongs.long().diff(dim=0)[:, 2] >= 0).all()


def test_ranges_may_go_with_the_resized_image(device: str) -> None:
    """Boxes and ranges times the same factor of each image: the same branches."""
    generator = torch.Generator().manual_seed(0)
    corner = 200 * torch.rand(2, 50, 2, generator=generator, dtype=torch.float64)
    boxes = torch.cat((corner, corner + 250 * torch.rand(2, 50, 2, generator=generator, dtype=torch.float64)), -1).to(device)
    ranges = torch.tensor(RANGES, dtype=torch.float64, device=device)
    factor = torch.tensor([1.5, 0.75], dtype=torch.float64, device=device)[:, None, None]
    assert scale_aware_boxes(boxes * factor, ranges * factor).equal(scale_aware_boxes(boxes, ranges))


def test_no_branch_learns_background_from_another_branchs_object(device: str) -> None:
    """Anchors on an object of another size are ignored, and those on an object of both are positive in both."""
    truths = torch.tensor([[0.0, 0.0, 20.0, 20.0], [40.0, 40.0, 100.0, 100.0], [0.0, 100.0, 200.0, 300.0]], device=device)
    iou = box_iou(truths[:, None], truths[None])
    in_range = scale_aware_boxes(truths, torch.tensor(RANGES, device=device))
    background = torch.full((3,), -1, device=device)
    own = torch.arange(3, device=device)
    for j, expected in enumerate(([0, 1, -2], [-2, 1, -2], [-2, -2, 2])):
        assert scale_aware_assignment(own, iou, in_range[:, j]).tolist() == expected
        assert (scale_aware_assignment(background, iou, in_range[:, j]) == -1).equal(in_range[:, j])


def test_detections_of_the_branches_meet_in_nms(device: str) -> None:
    """Of three detections of an object, the best one counts among those that are of their branch's size; and as alone in a batch."""
    boxes = torch.tensor([[0.0, 0.0, 100.0, 100.0], [1.0, 1.0, 100.0, 100.0], [0.0, 0.0, 98.0, 100.0]], device=device)
    score, ranges = torch.tensor([0.9, 0.8, 0.7], device=device), torch.tensor(RANGES, device=device)
    belongs = scale_aware_boxes(boxes, ranges).diagonal(0, -2, -1)
    assert belongs.tolist() == [False, True, True]
    kept = nms(boxes, score, valid=belongs, limit=100)
    assert kept.tolist() == [False, True, False]
    given = torch.stack((score, 1 - score), -1)[:, None], boxes[:, None], ranges
    assert scale_aware_detections(*given)[:, 0, 0].equal(kept)
    assert scale_aware_detections(*(torch.stack((x, x)) for x in given))[1, :, 0, 0].equal(kept)


def test_it_learns(device: str) -> None:
    """Branches of shared weights can be taught a blur whose width is their dilation."""
    x, module = features(device, 9).abs(), trident(device)
    targets = [(x + x.roll(d, -1) + x.roll(-d, -1)) / 3 for d in (1, 2, 3)]
    optimiser = torch.optim.Adam(module.parameters(), lr=0.01)
    losses = []
    for _ in range(30):
        loss = torch.stack([mse_loss(y, target) for y, target in zip(module([x]), targets, strict=True)]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
