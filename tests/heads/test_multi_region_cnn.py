"""Laws of Multi-Region CNN."""

import pytest
import torch
from torch import Tensor

from reference_impl.heads import MultiRegionCNN, box_voting, multi_region_loss, multi_regions
from reference_impl.ops.boxes import box_area, box_iou, decode_deltas, encode_deltas
from reference_impl.ops.matching import best_overlaps
from tools.scenes import CLASSES, STRIDE, jittered, painted


def network(device: str) -> MultiRegionCNN:
    torch.manual_seed(0)
    return MultiRegionCNN(CLASSES, CLASSES, width=16, scale=1 / STRIDE, rate=0.0).to(device)


def losses(module: MultiRegionCNN, *, seed: int, device: str) -> Tensor:
    features, boxes, labels = painted(6, seed=seed, device=device)
    proposals = jittered(boxes, each=12, seed=seed)
    found = best_overlaps(proposals, boxes)
    own = boxes.gather(1, found.truth[..., None].expand(-1, -1, 4))
    label = torch.where(found.iou >= 0.5, labels.gather(1, found.truth), CLASSES)
    class_loss, box_loss = multi_region_loss(*module(features, proposals), label, encode_deltas(own, proposals))
    return class_loss.mean() + 20 * box_loss.sum() / (label < CLASSES).sum()


def test_the_objective_falls_and_each_round_improves_the_boxes(device: str) -> None:
    """On scenes not seen. The second round is the same network again, and gains less than the first."""
    module = network(device)
    with torch.no_grad():
        before = losses(module, seed=99, device=device)
    optimiser = torch.optim.Adam(module.parameters(), lr=5e-3)
    for step in range(40):
        optimiser.zero_grad()
        losses(module, seed=step % 4, device=device).backward()
        optimiser.step()
    with torch.no_grad():
        assert losses(module, seed=99, device=device) < 0.5 * before
    features, boxes, labels = painted(8, seed=99, device=device)
    proposals = jittered(boxes, each=12, seed=99, spread=0.2)
    with torch.no_grad():
        rounds = [proposals]
        own = labels.repeat_interleave(12, dim=1)[..., None, None].expand(-1, -1, 1, 4)
        for _ in range(2):
            _, deltas = module(features, rounds[-1])
            rounds.append(decode_deltas(deltas.gather(2, own).squeeze(2), rounds[-1]))
    truth = boxes.repeat_interleave(12, dim=1)
    first, second, third = (box_iou(x, truth).mean() for x in rounds)
    assert first + 0.1 < second < third
    assert third - second < second - first

    found, _, detected = module.localise(features, proposals)
    of_class = (torch.arange(CLASSES, device=device)[:, None] == labels[:, None])[:, :, None]
    hit = (box_iou(found[:, :, :, None], boxes[:, None, None]) > 0.75) & detected[..., None] & of_class
    assert hit.any((1, 2)).double().mean() > 0.8


def test_a_network_that_says_nothing_leaves_the_boxes(device: str) -> None:
    """Without deltas and with equal scores, the rounds repeat the proposals, and those that lie apart stay where they are."""
    module = network(device)
    with torch.no_grad():
        module.regress.weight.zero_()
        module.classify.weight.zero_()
    features, boxes, _ = painted(2, seed=0, device=device)
    found, scores, detected = module.localise(features, boxes)
    assert found.shape == (2, CLASSES, 4, 4)
    torch.testing.assert_close(found, boxes.repeat(1, 2, 1)[:, None].expand_as(found))
    assert (scores == 0).all()
    assert detected.sum(-1).eq(2).all()


def test_holes_and_regions_nest(device: str) -> None:
    _, boxes, _ = painted(4, seed=0, device=device, dtype=torch.float64)
    outer, inner = multi_regions(boxes)
    assert (outer[..., :2] <= inner[..., :2]).all()
    assert (inner[..., 2:] <= outer[..., 2:]).all()
    part = (box_area(outer) - box_area(inner)) / box_area(boxes)[..., None]
    expected = [1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.8**2 - 0.3**2, 1 - 0.5**2, 1.5**2 - 0.8**2, 1.8**2 - 1]
    torch.testing.assert_close(part, torch.tensor(expected, dtype=torch.float64, device=device).expand_as(part))


def test_a_border_region_is_blind_in_the_middle(device: str) -> None:
    """What is in the hole of the context changes nothing for it, and does for the box itself."""
    module = network(device).double()
    features, boxes, _ = painted(1, seed=0, device=device, dtype=torch.float64)
    box = boxes[:, :1]
    touched = features.clone()
    x, y = ((box[0, 0, :2] + box[0, 0, 2:]) / 2 / STRIDE).long().tolist()
    touched[:, :, y, x] += 1
    outer, _ = multi_regions(box)
    for region, sees in ((0, True), (5, True), (7, False), (9, False)):
        with torch.no_grad():
            weight = module.classify.weight
            weight.zero_()
            weight[:, 16 * region : 16 * (region + 1)] = 1
        a, b = (module(f, box)[0] for f in (features, touched))
        assert (not torch.equal(a, b)) == sees, region
    assert outer.shape == (1, 1, 10, 4)


def test_a_vote_stays_between_its_voters(device: str) -> None:
    _, boxes, _ = painted(4, seed=0, device=device, dtype=torch.float64)
    proposals = jittered(boxes, each=10, seed=0, spread=0.1)
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(proposals.shape[:2], generator=draw, dtype=torch.float64).to(device)
    voted = box_voting(proposals, proposals, scores)
    near = (box_iou(proposals[:, :, None], proposals[:, None]) >= 0.5)[..., None]
    lowest = proposals[:, None].masked_fill(~near, torch.inf).amin(2)
    highest = proposals[:, None].masked_fill(~near, -torch.inf).amax(2)
    assert ((lowest <= voted + 1e-9) & (voted <= highest + 1e-9)).all()
    torch.testing.assert_close(box_voting(proposals, proposals.flip(1), scores.flip(1)), voted)


def test_alone_a_box_votes_for_itself(device: str) -> None:
    _, boxes, _ = painted(4, seed=0, device=device, dtype=torch.float64)
    scores = torch.full(boxes.shape[:2], -9.0, dtype=torch.float64, device=device)
    torch.testing.assert_close(box_voting(boxes, boxes, scores), boxes)


def test_segmentation_aware_features_change_the_scores_alone(device: str) -> None:
    """Where the classifier does not listen to them, `localise` finds what it would find without them."""
    torch.manual_seed(0)
    module = MultiRegionCNN(CLASSES, CLASSES, width=16, scale=1 / STRIDE, semantic_channels=3, semantic_width=8).to(device).eval()
    features, boxes, _ = painted(2, seed=0, device=device)
    semantic = torch.rand(2, 3, *features.shape[-2:], device=device)
    (logits, deltas), (others, same) = module(features, boxes, semantic), module(features, boxes, 2 * semantic)
    assert same.equal(deltas)
    assert not others.allclose(logits)
    plain = network(device).eval()
    state = {name: x for name, x in module.state_dict().items() if not name.startswith("semantic")}
    plain.load_state_dict(state | {"classify.weight": state["classify.weight"][:, : plain.classify.in_features]})
    with torch.no_grad():
        module.classify.weight[:, plain.classify.in_features :] = 0
    for a, b in zip(module.localise(features, boxes, semantic=semantic), plain.localise(features, boxes), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("channels", "said"), [(3, "missing"), (0, "not expected")])
def test_segmentation_aware_features_go_with_their_layer(channels: int, said: str, device: str) -> None:
    module = MultiRegionCNN(CLASSES, CLASSES, width=16, scale=1 / STRIDE, semantic_channels=channels, semantic_width=8).to(device)
    features, boxes, _ = painted(1, seed=0, device=device)
    with pytest.raises(ValueError, match=f"`semantic` is {said}"):
        module(features, boxes, None if channels else features)
