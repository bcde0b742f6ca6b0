"""Laws of Cascade R-CNN."""

from itertools import pairwise

import torch
from torch import Tensor

from reference_impl.heads import CascadeRCNN, cascade_detections, cascade_scores, sample_rois, stage_targets
from reference_impl.ops.boxes import box_iou
from tests.sampling.uniformity import BOUND, CANDIDATES, DRAWN, DRAWS, statistic
from tools.scenes import CLASSES, STRIDE, jittered, painted


def cascade(device: str, *, width: int = 32) -> CascadeRCNN:
    torch.manual_seed(0)
    return CascadeRCNN(CLASSES, CLASSES, width=width, scale=1 / STRIDE).to(device)


def losses(module: CascadeRCNN, *, seed: int, device: str) -> tuple[Tensor, Tensor]:
    features, boxes, labels = painted(8, seed=seed, device=device)
    rois, chosen = sample_rois(jittered(boxes, each=20, seed=seed), boxes, size=32)
    return module.loss(module([features], rois[:, :32], boxes), chosen[:, :32], boxes, labels)


def test_training_moves_the_ious_up_from_stage_to_stage(device: str) -> None:
    """The objective falls on scenes that were not seen, and every stage hands on better boxes than it was given."""
    module = cascade(device)
    with torch.no_grad():
        before = sum(x.mean(0).sum() for x in losses(module, seed=99, device=device))
    optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)
    for step in range(80):
        optimiser.zero_grad()
        sum(x.mean(0).sum() for x in losses(module, seed=step % 4, device=device)).backward()
        optimiser.step()
    with torch.no_grad():
        assert sum(x.mean(0).sum() for x in losses(module, seed=99, device=device)) < 0.7 * before
        features, boxes, labels = painted(16, seed=99, device=device)
        proposals = jittered(boxes, each=20, seed=99)
        _, _, entering = module([features], proposals)
        scores, found, detected = module.detect([features], proposals)
    iou = box_iou(entering[:, :, :, None], boxes[:, None, None]).amax(-1)
    positives = [(x.mean(), x[x >= 0.5].mean(), (x >= 0.7).double().mean()) for x in iou.unbind(1)]
    for worse, better in pairwise(positives):
        assert all(a < b for a, b in zip(worse, better, strict=True)), positives
    own = (torch.where(detected, scores, 0)[:, None] * (torch.arange(3, device=device) == labels[..., None])[:, :, None]).sum(-1)
    hit = (own > 0.5) & (box_iou(found[:, None], boxes[:, :, None]) > 0.5)
    assert hit.any(-1).double().mean() > 0.8


def test_one_detection_of_each_object_is_left(device: str) -> None:
    """Of five equal proposals for each, with all classifiers sure of class 0."""
    module = cascade(device)
    features, boxes, _ = painted(3, seed=0, device=device)
    with torch.no_grad():
        for head in module.heads:
            head.classify.bias[0] = 9
    scores, found, detected = module.detect([features], boxes.repeat(1, 5, 1))
    assert detected.sum(1).tolist() == 3 * [[2, 0, 0]]
    assert (scores[..., 0] > 0.99).all()
    torch.testing.assert_close(found, boxes.repeat(1, 5, 1), rtol=0, atol=1.0)


def test_a_stage_learns_nothing_for_the_next(device: str) -> None:
    """The boxes are handed on without gradient, so that the loss of a stage moves the layers of that stage alone."""
    module = cascade(device)
    class_loss, box_loss = losses(module, seed=0, device=device)
    for k in range(3):
        found = torch.autograd.grad(
            class_loss[:, k].sum() + box_loss[:, k].sum(), list(module.parameters()), allow_unused=True, retain_graph=True
        )
        moved = [g is not None and bool(g.any()) for g in found]
        per_stage = len(moved) // 3
        assert all(moved[k * per_stage : (k + 1) * per_stage])
        assert not any(moved[: k * per_stage] + moved[(k + 1) * per_stage :])


def test_detectors_that_say_nothing_leave_the_boxes(device: str) -> None:
    module = cascade(device)
    with torch.no_grad():
        for head in module.heads:
            head.regress.weight.zero_()
    features, boxes, _ = painted(2, seed=0, device=device)
    proposals = jittered(boxes, each=5, seed=0)
    _, deltas, entering = module([features], proposals)
    assert (deltas == 0).all()
    torch.testing.assert_close(entering, proposals[:, None].expand_as(entering))


def test_a_higher_threshold_has_fewer_positives(device: str) -> None:
    _, boxes, labels = painted(4, seed=0, device=device)
    proposals = jittered(boxes, each=50, seed=0, spread=0.15)
    counts = []
    for threshold in (0.5, 0.6, 0.7):
        label, target, iou = stage_targets(proposals, boxes, labels, classes=CLASSES, threshold=threshold)
        assert (label < CLASSES).equal(iou >= threshold)
        assert (target[label == CLASSES] == 0).all()
        counts.append(int((label < CLASSES).sum()))
    assert counts[0] > counts[1] > counts[2] > 0


def test_halved_units_double_the_targets(device: str) -> None:
    _, boxes, labels = painted(4, seed=0, device=device)
    proposals = jittered(boxes, each=20, seed=0, spread=0.15)
    _, first, _ = stage_targets(proposals, boxes, labels)
    _, second, _ = stage_targets(proposals, boxes, labels, center_std=0.05, size_std=0.1)
    torch.testing.assert_close(second, 2 * first)


def test_a_copy_of_the_ground_truth_counts_once(device: str) -> None:
    """Behind the first stage, whatever it says of boxes that came in on a ground truth, or as padding, changes no loss."""
    module = cascade(device)
    features, boxes, labels = painted(2, seed=0, device=device)
    proposals = torch.cat((boxes, jittered(boxes, each=5, seed=0, spread=0.1)), 1)
    logits, deltas, entering = module([features], proposals, boxes)
    chosen = torch.ones_like(proposals[..., 0], dtype=torch.bool)
    chosen[:, -1] = False
    touched = logits.detach().clone()
    touched[:, 1:, :2] += 3 * torch.randn_like(touched[:, 1:, :2])
    touched[:, :, proposals.shape[1] - 1] += 5
    plain = module.loss((logits, deltas, entering), chosen, boxes, labels)
    for a, b in zip(plain, module.loss((touched, deltas, entering), chosen, boxes, labels), strict=True):
        torch.testing.assert_close(a, b)
    assert module.loss((logits + touched, deltas, entering), chosen, boxes, labels)[0].ne(plain[0]).any()


def test_the_numbers_of_the_first_stage(device: str) -> None:
    """128 positives of 512, the ground truths among both numbers; negatives fill up."""
    draw = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[[0.0, 0.0, 64.0, 64.0], [100.0, 0.0, 164.0, 64.0], [0.0, 0.0, 1.0, 1.0]]])
    valid = torch.tensor([[True, True, False]])
    for positives, negatives, wanted in [(300, 900, (126, 384)), (50, 900, (50, 460)), (50, 100, (50, 100))]:
        near = boxes[:, :1] + 4 * torch.rand(1, positives, 4, generator=draw)
        far = boxes[:, :1] + 500 + 4 * torch.rand(1, negatives, 4, generator=draw)
        rois, chosen = sample_rois(torch.cat((far, near), 1).to(device), boxes.to(device), valid.to(device))
        on_object = box_iou(rois, boxes[:, :1].to(device)) >= 0.5
        assert ((on_object & chosen).sum(), (~on_object & chosen).sum()) == wanted
        assert chosen[:, : sum(wanted)].all()
        assert not chosen[:, sum(wanted) :].any()


def test_every_subset_of_the_positives_is_as_likely_as_any_other(device: str) -> None:
    torch.manual_seed(0)
    boxes = torch.tensor([0.0, 0.0, 8.0, 8.0], device=device).expand(DRAWS, 1, 4)
    width = torch.arange(5.0, 5.0 + CANDIDATES, device=device)[:, None] * torch.tensor([0.0, 0.0, 1.0, 0.0], device=device)
    proposals = (width + torch.tensor([0.0, 0.0, 0.0, 8.0], device=device)).expand(DRAWS, CANDIDATES, 4)
    rois, chosen = sample_rois(proposals, boxes, size=DRAWN + 1, positive_fraction=1.0)
    drawn = torch.zeros(DRAWS, CANDIDATES, device=device).scatter(1, rois[..., 2].long() - 5, chosen.float())
    assert statistic(drawn) < BOUND


def test_scores_are_between_those_of_the_stages(device: str) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 3, 20, 5, generator=draw, dtype=torch.float64).to(device)
    scores, each = cascade_scores(logits), logits.softmax(-1)
    assert ((each.amin(1) <= scores) & (scores <= each.amax(1))).all()
    torch.testing.assert_close(scores.sum(-1), torch.ones_like(scores[..., 0]))
    torch.testing.assert_close(cascade_scores(logits.flip(1)), scores)


def test_detections_of_a_class_lie_apart(device: str) -> None:
    """No two of them overlap by more than the threshold, and what is not detected has a better one of its class near, or a low score."""
    draw = torch.Generator().manual_seed(0)
    scores = torch.rand(2, 40, 4, generator=draw, dtype=torch.float64).to(device)
    corner = 20 * torch.rand(2, 40, 2, generator=draw, dtype=torch.float64).to(device)
    boxes = torch.cat((corner, corner + 10), -1)
    kept = cascade_detections(scores, boxes, lowest_score=0.2)
    assert not kept[..., -1].any()
    near = (box_iou(boxes[:, :, None], boxes[:, None]) > 0.5)[..., None]
    better = scores[:, :, None] < scores[:, None]
    suppressed = (near & better & kept[:, None]).any(2)
    assert kept[..., :-1].equal((~suppressed & (scores >= 0.2))[..., :-1])
