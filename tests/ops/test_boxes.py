"""Laws of box geometry."""

import pytest
import torch
from torch import Tensor

from reference_impl.ops import boxes as ops
from reference_impl.ops.boxes import (
    box_area,
    box_around,
    box_center,
    box_diou,
    box_giou,
    box_intersection,
    box_iou,
    box_size,
    decode_deltas,
    enclosing_box,
    encode_deltas,
    squared_center_distance,
)

OF_TWO = [box_intersection, box_iou, box_giou, box_diou, squared_center_distance, enclosing_box, encode_deltas]
SIMILARITIES = [box_iou, box_giou, box_diou]


def some(n: int, seed: int, device: str, dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    corner = 40 * torch.rand(n, 2, generator=draw, dtype=torch.float64)
    return torch.cat((corner, corner + 1 + 30 * torch.rand(n, 2, generator=draw, dtype=torch.float64)), -1).to(device, dtype)


@pytest.mark.parametrize("function", OF_TWO, ids=lambda f: f.__name__)
def test_all_pairs_are_one_by_one(function, device: str) -> None:
    a, b = some(5, 0, device), some(7, 1, device)
    pairs = function(a[:, None], b[None])
    for i in range(5):
        for j in range(7):
            assert pairs[i, j].equal(function(a[i], b[j]))


@pytest.mark.parametrize("function", SIMILARITIES, ids=lambda f: f.__name__)
def test_a_similarity_is_one_for_the_box_itself_and_less_for_others(function, device: str) -> None:
    a, b = some(100, 0, device), some(100, 1, device)
    torch.testing.assert_close(function(a, a), torch.ones_like(a[:, 0]))
    assert (function(a, b) < 1).all()
    assert (function(a, b) >= -1).all()
    torch.testing.assert_close(function(a, b), function(b, a))
    torch.testing.assert_close(function(5 * a - 3, 5 * b - 3), function(a, b))


def test_a_box_without_width_has_the_gradient_of_one_that_grows(device: str) -> None:
    box = torch.tensor([2.0, 0.0, 2.0, 3.0], device=device, requires_grad=True)
    assert torch.autograd.grad(box_area(box), box)[0].tolist() == [-3, 0, 3, 0]
    assert torch.autograd.grad(box_size(box)[0], box)[0].tolist() == [-1, 0, 1, 0]
    assert torch.func.grad(box_area)(box).tolist() == [-3, 0, 3, 0]
    assert torch.compile(torch.func.grad(box_area), backend="aot_eager")(box).tolist() == [-3, 0, 3, 0]


@pytest.mark.parametrize("function", [box_giou, box_diou], ids=lambda f: f.__name__)
def test_far_apart_the_extensions_of_iou_approach_minus_one(function, device: str) -> None:
    a = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64, device=device)
    far = function(a, a + torch.tensor([[1e1], [1e3], [1e5]], dtype=torch.float64, device=device))
    assert far.diff().lt(0).all()
    assert (far[-1] + 1).abs() < 1e-4
    assert (box_iou(a, a + 10) == 0).all()


def test_intersection_is_in_both_and_the_enclosing_box_around_both(device: str) -> None:
    a, b = some(100, 0, device), some(100, 1, device)
    shared, around = box_intersection(a, b), box_area(enclosing_box(a, b))
    assert (shared <= torch.minimum(box_area(a), box_area(b))).all()
    assert (around >= torch.maximum(box_area(a), box_area(b))).all()
    assert enclosing_box(a, a).equal(a)
    torch.testing.assert_close(enclosing_box(enclosing_box(a, b), a), enclosing_box(a, b))


def test_the_distance_is_that_of_the_centres(device: str) -> None:
    a, b = some(100, 0, device), some(100, 1, device)
    torch.testing.assert_close(squared_center_distance(a, b), (box_center(a) - box_center(b)).square().sum(-1))
    torch.testing.assert_close(box_area(a), box_size(a).prod(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("function", SIMILARITIES, ids=lambda f: f.__name__)
def test_boxes_without_area_have_finite_values_and_gradients(function, dtype: torch.dtype, device: str) -> None:
    strange = torch.tensor([[1, 1, 1, 1], [0, 0, 2, 2], [0, 1, 3, 1], [2, 2, 0, 0], [9, 9, 9, 12]], dtype=dtype, device=device)
    a = strange[:, None].clone().requires_grad_()
    b = strange[None].clone().requires_grad_()
    value = function(a, b)
    assert value.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value.sum(), (a, b)))


def test_deltas_lead_from_one_box_to_the_other_and_back(device: str) -> None:
    boxes, reference = some(100, 0, device), some(100, 1, device)
    torch.testing.assert_close(decode_deltas(encode_deltas(boxes, reference), reference), boxes)
    assert (encode_deltas(reference, reference) == 0).all()


def test_a_centre_and_a_size_make_the_box_that_has_them(device: str) -> None:
    boxes = some(100, 0, device)
    torch.testing.assert_close(box_around(box_center(boxes), box_size(boxes)), boxes)
    found = box_around(boxes[:, None, :2], boxes[..., 2:])
    torch.testing.assert_close(box_center(found), boxes[:, None, :2].expand_as(found[..., :2]))
    torch.testing.assert_close(box_size(found), boxes[..., 2:].expand_as(found[..., 2:]))
    assert box_around(boxes[..., :2], 16).equal(box_around(boxes[..., :2], torch.full_like(boxes[..., :2], 16)))


def test_half_precision_is_widened(device: str) -> None:
    a, b = some(20, 0, device, torch.bfloat16), some(20, 1, device, torch.bfloat16)
    for function in SIMILARITIES:
        assert function(a, b).equal(function(a.float(), b.float()))
    assert set(ops.__all__) >= {f.__name__ for f in OF_TWO}


@pytest.mark.parametrize(
    ("first", "second"),
    [((700, 1, 4), (1, 300, 4)), ((2, 400, 1, 4), (300, 4)), ((1, 900, 4), (100, 1, 4)), ((70000, 4), (70000, 4)), ((4,), (3, 40000, 4))],
)
def test_many_pairs_are_as_few(first: tuple[int, ...], second: tuple[int, ...], device: str) -> None:
    """Without a gradient many pairs are computed in blocks, with one all at once: the same values, also for boxes without area."""
    draw = torch.Generator().manual_seed(0)
    a, b = (torch.rand(shape, generator=draw, dtype=torch.float64).to(device) for shape in (first, second))
    a[..., 2:] += a[..., :2] * (a[..., :1] > 0.3)
    b[..., 2:] += b[..., :2] * (b[..., :1] > 0.3)
    found = box_iou(a, b)
    assert not found.requires_grad
    torch.testing.assert_close(found, box_iou(a.requires_grad_(), b).detach(), rtol=1e-14, atol=1e-14)
