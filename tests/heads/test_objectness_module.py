"""Laws of the objectness module and the refinement behind it."""

import pytest
import torch
from torch.nn.functional import conv2d

from reference_impl.heads import GuidedRefinement, ObjectnessModule


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
