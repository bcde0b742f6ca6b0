"""Laws of the objectness module and the refinement behind it."""

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d

from reference_impl.heads import GuidedRefinement, ObjectnessModule, anchor_refinement, ssd_loss, ssd_targets
from reference_impl.ops.layout import per_anchor
from tools.scenes import CLASSES, SIDE, painted


def test_without_offsets_it_is_a_dilated_convolution(device: str) -> None:
    torch.manual_seed(0)
    refinement = GuidedRefinement(3, 2, width=4, dilation=3).to(device).eval()
    torch.nn.init.zeros_(refinement.offsets[0].weight)
    features = torch.randn(2, 3, 9, 7, device=device)
    plain = refinement.norm(conv2d(features, refinement.weight, padding=3, dilation=3)).relu()
    torch.testing.assert_close(refinement(features, torch.randn(2, 9 * 7 * 2, 4, device=device)), plain)


def test_the_class_predictor_trains_both_steps(device: str) -> None:
    torch.manual_seed(0)
    module, refinement = ObjectnessModule(3, 2).to(device), GuidedRefinement(3, 2, width=4, dilation=2).to(device)
    enriched, _, offsets = module(torch.randn(2, 3, 9, 7, device=device))
    refinement(enriched, offsets).square().sum().backward()
    for part in (module.classify, module.regress, refinement):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in part.parameters())


def test_offsets_have_to_be_those_of_the_anchors(device: str) -> None:
    refinement = GuidedRefinement(3, 2, width=4).to(device)
    with pytest.raises(ValueError, match="`offsets` have 125 rows; expected 126, 2 for each of 9 x 7 locations"):
        refinement(torch.zeros(1, 3, 9, 7, device=device), torch.zeros(1, 125, 4, device=device))


def test_the_losses_of_ssd_train_both_steps(device: str) -> None:
    """What the first step takes for no object is no positive of the second. On a few scenes, seen again and again, all fall."""
    torch.manual_seed(0)
    features, boxes, labels = painted(4, seed=0, device=device)
    maps = avg_pool2d(features, 4)
    module, refinement = ObjectnessModule(CLASSES, 1), GuidedRefinement(CLASSES, 1, width=16, dilation=1)
    classify, regress = nn.Conv2d(16, CLASSES + 1, 3, padding=1), nn.Conv2d(16, 4, 3, padding=1)
    parts = nn.ModuleList([module, refinement, classify, regress]).to(device)
    center = torch.cartesian_prod(torch.arange(8.0, SIDE, 16), torch.arange(8.0, SIDE, 16)).flip(-1).to(device)
    anchors = torch.cat((center - 16, center + 16), -1).expand(4, -1, 4)
    optimiser, history = torch.optim.Adam(parts.parameters(), lr=1e-2), []
    for _ in range(60):
        enriched, objects, offsets = module(maps)
        level = refinement(enriched, offsets)
        refined, objectness = anchor_refinement(anchors, offsets.detach(), objects.detach())
        is_object, start = ssd_targets(anchors, boxes, 0 * labels, classes=1)
        label, target = ssd_targets(refined, boxes, labels, classes=CLASSES)
        predicted = (per_anchor(x, anchors=1) for x in (classify(level), regress(level)))
        counted = (label == CLASSES) | (objectness > 0.01)
        found = *ssd_loss(objects, offsets, is_object, start), *ssd_loss(*predicted, label, target, counted)
        optimiser.zero_grad()
        sum(x.mean() for x in found).backward()
        optimiser.step()
        history.append([float(x.mean().detach()) for x in found])
    assert all(a < 0.8 * b for a, b in zip(history[-1], history[0], strict=True)), (history[0], history[-1])
