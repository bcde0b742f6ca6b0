"""The gradient that is made beside a similarity is that of its formula."""

import pytest
import torch
from torch import Tensor

from reference_impl.ops import boxes as ops
from reference_impl.ops.boxes import box_diou, box_giou, box_iou

FORMULAS = {box_iou: ops._iou, box_giou: ops._giou, box_diou: ops._diou}
every_similarity = pytest.mark.parametrize("function", FORMULAS, ids=lambda f: f.__name__)


def pairs(device: str, *, coarse: bool = False, ordered: bool = True, n: int = 500) -> tuple[Tensor, Tensor]:
    """Coarse boxes have corners in common and sides of 0; where corners are not ordered, sides are negative, too."""
    draw = torch.Generator().manual_seed(0)
    corners = 6 * torch.rand(2, n, 2, 2, generator=draw, dtype=torch.float64)
    corners = corners.round() if coarse else corners
    corners = corners.sort(-2).values if ordered else corners
    a, b = corners.flatten(-2).to(device)
    return a.requires_grad_(), b.requires_grad_()


@every_similarity
@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "any corners"])
@pytest.mark.parametrize("coarse", [False, True], ids=["fine", "coarse"])
def test_value_and_gradient_are_those_of_the_formula(function, coarse: bool, ordered: bool, device: str) -> None:
    a, b = pairs(device, coarse=coarse, ordered=ordered)
    for first, second in ((a, b), (a, a.detach().clone().requires_grad_())):
        found, expected = function(first, second), FORMULAS[function](first, second)
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
        weight = torch.linspace(-1, 2, len(a), dtype=a.dtype, device=device)
        of_found = torch.autograd.grad(found, (first, second), weight)
        of_expected = torch.autograd.grad(expected, (first, second), weight)
        torch.testing.assert_close(of_found, of_expected, rtol=1e-11, atol=1e-11)


@every_similarity
def test_either_gradient_comes_alone(function, device: str) -> None:
    a, b = pairs(device)
    both = torch.autograd.grad(function(a, b).sum(), (a, b))
    torch.testing.assert_close(torch.autograd.grad(function(a, b.detach()).sum(), a)[0], both[0])
    torch.testing.assert_close(torch.autograd.grad(function(a.detach(), b).sum(), b)[0], both[1])


@every_similarity
def test_differentiated_again_and_again(function, device: str) -> None:
    a, b = pairs(device, n=6)
    value = function(a, b).sum()
    once = torch.autograd.grad(value, a, retain_graph=True)[0]
    assert once.equal(torch.autograd.grad(value, a, retain_graph=True)[0])
    assert torch.autograd.gradgradcheck(function, (a, b))
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(function))(a, b), once)


@every_similarity
def test_the_layout_of_the_boxes_does_not_matter(function, device: str) -> None:
    a, b = pairs(device)
    expected = torch.autograd.grad(function(a, b).sum(), a)[0]
    turned = a.detach().mT.contiguous().mT.requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(function(turned.view(20, 25, 4), b.view(20, 25, 4)).sum(), turned)[0], expected)
