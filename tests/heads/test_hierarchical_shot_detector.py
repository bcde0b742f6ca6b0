"""Laws of the Hierarchical Shot Detector."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pixel_unshuffle

from reference_impl.heads import HierarchicalShotDetector, HSDContext, hsd_boxes, hsd_detections, hsd_loss, hsd_targets
from reference_impl.ops.boxes import box_iou, encode_deltas
from tools.scenes import CLASSES, SIDE, STRIDE, jittered, painted

CELL = 4 * STRIDE


class Network(nn.Module):
    """A tower, the context of the level from a coarser one, and the head; two square anchors at each place."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Conv2d(16 * CLASSES, 8, 3, padding=1), nn.ReLU())
        self.context = HSDContext(16, width=8)
        self.head = HierarchicalShotDetector(8, CLASSES, anchors=2)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        level = self.tower(pixel_unshuffle(features, 4))
        found: tuple[Tensor, Tensor, Tensor, Tensor] = self.head(level, self.context(level, avg_pool2d(level, 2)))
        return found


def network(device: str) -> Network:
    torch.manual_seed(0)
    return Network().to(device)


def squares(device: str) -> Tensor:
    at = CELL * (torch.arange(SIDE // CELL, device=device) + 0.5)
    center = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).reshape(-1, 1, 2)
    half = torch.tensor([12.0, 18.0], device=device)[:, None]
    return torch.cat((center - half, center + half), -1).flatten(0, 1)


def losses(module: Network, *, seed: int, device: str) -> Tensor:
    features, boxes, labels = painted(4, seed=seed, device=device)
    deltas, objects, refined, logits = module(features)
    anchors = squares(device).expand(4, -1, 4)
    first, second = hsd_boxes(anchors, deltas, refined)
    is_object = objects.detach().softmax(-1)[..., 0] > 0.01
    total = torch.zeros((), device=device)
    for scores, moved, targets, valid in (
        (objects, deltas, hsd_targets(anchors, first, boxes, 0 * labels, classes=1), None),
        (
            logits,
            refined,
            hsd_targets(first, second, boxes, labels, classes=CLASSES, class_threshold=0.7, center_std=0.05, size_std=0.1),
            is_object,
        ),
    ):
        class_loss, box_loss = hsd_loss(scores, moved, *targets, valid)
        total = total + class_loss.sum() / (targets[0] < scores.shape[-1] - 1).sum() + box_loss.sum() / targets[2].sum()
    return total


def test_training_gives_better_boxes_to_the_second_module_and_to_its_classifier(device: str) -> None:
    """On scenes not seen the objective falls, boxes near objects overlap them more after each module, and the objects are found."""
    module = network(device)
    module.eval()
    with torch.no_grad():
        before = losses(module, seed=99, device=device)
    module.train()
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    for step in range(80):
        optimiser.zero_grad()
        losses(module, seed=step % 6, device=device).backward()
        optimiser.step()
    module.eval()
    with torch.no_grad():
        after = losses(module, seed=99, device=device)
        features, boxes, labels = painted(4, seed=99, device=device)
        deltas, objects, refined, logits = module(features)
    anchors = squares(device).expand(4, -1, 4)
    first, second = hsd_boxes(anchors, deltas, refined)
    overlap = [box_iou(x[:, :, None], boxes[:, None]).amax(-1) for x in (anchors, first, second)]
    near = overlap[0] >= 0.25
    assert after < 0.5 * before
    for worse, better in pairwise(overlap):
        assert worse[near].mean() < better[near].mean()
        assert (worse >= 0.7).sum() < (better >= 0.7).sum()
    _, kept = hsd_detections(logits, objects.softmax(-1)[..., 0], second)
    of_class = (torch.arange(CLASSES, device=device) == labels[..., None])[:, None] & kept[:, :, None, :CLASSES]
    hit = of_class.any(-1) & (box_iou(second[:, :, None], boxes[:, None]) > 0.5)
    assert hit.any(1).double().mean() > 0.8


def test_no_deltas_learn_from_classes(device: str) -> None:
    module = network(device).head
    with torch.no_grad():
        for offsets in (module.offsets, module.refined_offsets):
            offsets[2].weight.normal_()
    features, _, _ = painted(1, seed=0, device=device)
    deltas, objects, refined, logits = module(features.repeat(1, 4, 1, 1), features.repeat(1, 4, 1, 1))
    own = dict(module.named_parameters())
    for output in (objects, logits):
        found = torch.autograd.grad(output.sum(), list(own.values()), allow_unused=True, retain_graph=True)
        assert all(g is None for name, g in zip(own, found, strict=True) if name in ("regress.weight", "regress.bias", "refine"))
    reached = torch.autograd.grad(logits.sum(), [own["offsets.0.weight"], own["refined_offsets.2.weight"]], retain_graph=True)
    assert all(g.any() for g in reached)
    assert torch.autograd.grad(deltas.sum() + refined.sum(), [own["refine"]])[0].any()


def test_at_the_start_the_offsets_are_zero(device: str) -> None:
    """So the classifier sees the plain features, whatever the deltas are."""
    module = network(device).head
    features, _, _ = painted(1, seed=0, device=device)
    features = features.repeat(1, 4, 1, 1)
    before = module(features, features)
    with torch.no_grad():
        module.regress.bias += 3
    after = module(features, features)
    torch.testing.assert_close(after[0], before[0] + 3)
    assert all(a.equal(b) for a, b in zip(before[1:], after[1:], strict=True))


def test_at_the_start_the_context_is_without_attention(device: str) -> None:
    """With a strength of zero a change far away reaches only as far as the convolutions do."""
    torch.manual_seed(0)
    module = HSDContext(8, width=4).to(device).eval()
    features, coarser = torch.rand(1, 4, 12, 12, device=device), torch.rand(1, 4, 12, 12, device=device)
    touched = features.clone()
    touched[..., 0, 0] += 1
    changed = (module(features, coarser) != module(touched, coarser)).any(1)[0]
    assert changed[0, 0]
    assert not changed[5:, 5:].any()
    with torch.no_grad():
        module.attend[1].strength += 1
    assert (module(features, coarser) != module(touched, coarser))[..., 5:, 5:].any()


def test_the_right_deltas_make_positives(device: str) -> None:
    """What is regressed onto its ground truth is classified as it, and nothing is left to regress."""
    _, boxes, labels = painted(4, seed=0, device=device, dtype=torch.float64)
    anchors = jittered(boxes, each=20, seed=0, spread=0.5)
    own = boxes.repeat_interleave(20, dim=1)
    std = torch.tensor([0.1, 0.1, 0.2, 0.2], dtype=torch.float64, device=device)
    first, second = hsd_boxes(anchors, encode_deltas(own, anchors) / std, torch.zeros_like(anchors))
    torch.testing.assert_close(first, own)
    torch.testing.assert_close(second, own)
    label, _, matched = hsd_targets(anchors, first, boxes, labels, classes=CLASSES)
    assert label.equal(labels.repeat_interleave(20, dim=1))
    assert 0 < matched.sum() < matched.numel()
    _, targets, matched = hsd_targets(first, second, boxes, labels)
    assert matched.all()
    torch.testing.assert_close(targets, torch.zeros_like(targets), rtol=0, atol=1e-6)


def test_every_object_has_a_positive(device: str) -> None:
    """However bad the boxes are, as long as one touches it; and padding has none."""
    _, boxes, labels = painted(4, seed=0, device=device)
    anchors = jittered(boxes, each=3, seed=0, spread=0.8)
    padded, valid = torch.cat((boxes, boxes + 3), 1), torch.arange(4, device=device).expand(4, 4) < 2
    label, _, matched = hsd_targets(anchors, anchors, boxes, labels, classes=CLASSES, threshold=0.99, class_threshold=0.99)
    assert matched.sum(1).eq(2).all()
    assert (label < CLASSES).equal(matched)
    for a, b in zip(
        hsd_targets(anchors, anchors, padded, labels.repeat(1, 2), valid, classes=CLASSES, threshold=0.99, class_threshold=0.99),
        hsd_targets(anchors, anchors, boxes, labels, classes=CLASSES, threshold=0.99, class_threshold=0.99),
        strict=True,
    ):
        assert a.equal(b)


def test_three_negatives_for_each_positive_and_the_hardest(device: str) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 60, 4, generator=draw, dtype=torch.float64).to(device)
    labels = torch.full((2, 60), 3, device=device)
    labels[0, :5], labels[1, :2] = 1, 0
    zeros = torch.zeros(2, 60, 4, dtype=torch.float64, device=device)
    class_loss, _ = hsd_loss(logits, zeros, labels, zeros, labels < 3)
    assert (class_loss > 0).sum(1).tolist() == [20, 8]
    every = -logits.log_softmax(-1)[..., 3]
    for i in range(2):
        chosen = (class_loss[i] > 0) & (labels[i] == 3)
        assert every[i, chosen].min() > every[i, ~chosen & (labels[i] == 3)].max()
