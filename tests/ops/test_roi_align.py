"""Laws of RoIAlign and of precise RoI pooling."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.nn.functional import pad

from reference_impl.ops.roi_align import FEW, precise_roi_pool, precise_roi_pool_levels, roi_align, roi_align_by_size, roi_align_levels
from tests.conftest import changing_sizes
from tests.ops.theirs import torchvision_ops


def among_many(features: Tensor, boxes: Tensor, **how: Any) -> Tensor:
    """Precise pooling of boxes beside so many without area that the map is summed up."""
    return precise_roi_pool(features, torch.cat((boxes, boxes.new_zeros(len(boxes), FEW, 4)), 1), **how)[:, : boxes.shape[1]]


POOLS: list[tuple[Callable[..., Tensor], dict[str, Any]]] = [
    *((roi_align, {}), (roi_align, {"samples": None})),
    *((precise_roi_pool, {}), (among_many, {})),
]
every_pool = pytest.mark.parametrize(("pool", "how"), POOLS, ids=["roi_align", "roi_align, adaptive", "precise_roi_pool", "of many boxes"])


def maps_and_boxes(n: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two maps of 36 x 52 pixels at a stride of 4; boxes inside, across the border, and one beyond everything."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 3, 9, 13, generator=generator, dtype=torch.float64)
    corner = 60 * torch.rand(2, n, 2, generator=generator, dtype=torch.float64) - 10
    boxes = torch.cat((corner, corner + 40 * torch.rand(2, n, 2, generator=generator, dtype=torch.float64)), -1)
    boxes[1, -1] = torch.tensor([-500.0, -300.0, 400.0, 600.0])
    return features.to(dtype), boxes.to(dtype)


def at(x: Tensor, row: float, column: float) -> Tensor:
    """Bilinear interpolation as the compiled kernels do it."""
    height, width = x.shape[-2:]
    if not (-1 <= row <= height and -1 <= column <= width):
        return torch.zeros_like(x[:, 0, 0])
    row, column = min(max(row, 0), height - 1), min(max(column, 0), width - 1)
    y, z = math.floor(row), math.floor(column)
    down, right = min(y + 1, height - 1), min(z + 1, width - 1)
    above = x[:, y, z] * (1 - column + z) + x[:, y, right] * (column - z)
    below = x[:, down, z] * (1 - column + z) + x[:, down, right] * (column - z)
    return above * (1 - row + y) + below * (row - y)


def sample_by_sample(x: Tensor, box: Tensor, scale: float, size: int, samples: int | None, aligned: bool) -> Tensor:
    x1, y1, x2, y2 = (v * scale - 0.5 * aligned for v in box.tolist())
    width, height = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
    rows, columns = samples or math.ceil(height / size), samples or math.ceil(width / size)
    found = torch.zeros(x.shape[0], size, size, dtype=x.dtype)
    for i in range(size * rows):
        for j in range(size * columns):
            point = y1 + height * (i + 0.5) / (size * rows), x1 + width * (j + 0.5) / (size * columns)
            found[:, i // rows, j // columns] += at(x, *point) / (rows * columns)
    return found


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [1, 2, 3, None])
def test_it_is_the_definition(samples: int | None, aligned: bool, device: str) -> None:
    features, boxes = maps_and_boxes(4)
    boxes[1, -1, 2:] = torch.tensor([80.0, 70.0])
    slow = [[sample_by_sample(features[i], box, 0.25, 3, samples, aligned) for box in boxes[i]] for i in range(2)]
    found = roi_align(features.to(device), boxes.to(device), scale=0.25, size=3, samples=samples, aligned=aligned)
    torch.testing.assert_close(found.cpu(), torch.stack([torch.stack(row) for row in slow]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("samples", [2, None])
def test_as_torchvision(samples: int | None, device: str) -> None:
    ops = torchvision_ops()
    features, boxes = (x.to(device) for x in maps_and_boxes())
    for aligned in (True, False):
        theirs = ops.roi_align(features, list(boxes), 7, 0.25, samples or -1, aligned)
        ours = roi_align(features, boxes, scale=0.25, samples=samples, aligned=aligned)
        torch.testing.assert_close(ours.flatten(0, 1), theirs, rtol=1e-9, atol=1e-9)


def test_precise_pooling_is_the_limit_of_many_samples(device: str) -> None:
    """On a map with zeros around, so that both fade at its border. Midpoint sums of 128 samples a cell are that near."""
    features, boxes = (x.to(device) for x in maps_and_boxes(5))
    boxes = boxes.clamp(-20, 80)
    wide = pad(features, (8, 8, 8, 8))
    many = roi_align(wide, boxes + 8 / 0.25 + 0.5 / 0.25, scale=0.25, size=2, samples=128)
    torch.testing.assert_close(precise_roi_pool(features, boxes, scale=0.25, size=2), many, rtol=1e-3, atol=1e-3)


@every_pool
def test_a_linear_map_has_its_value_at_the_centres(pool: Callable[..., Tensor], how: dict[str, Any], device: str) -> None:
    row, column = torch.meshgrid(*(torch.arange(n, dtype=torch.float64, device=device) for n in (16, 20)), indexing="ij")
    features = (2 * row - 3 * column + 1)[None, None]
    boxes = torch.tensor([[[8.0, 12.0, 48.0, 44.0], [20.0, 10.0, 30.0, 50.0]]], dtype=torch.float64, device=device)
    found = pool(features, boxes, scale=0.25, size=4, **how)[0, :, 0]
    step = (torch.arange(4, device=device) + 0.5) / 4
    center = boxes[0, :, None, :2] + step[:, None] * (boxes[0, :, None, 2:] - boxes[0, :, None, :2])
    place = center * 0.25 - (0.5 if pool is roi_align else 0)
    expected = 2 * place[:, :, None, 1] - 3 * place[:, None, :, 0] + 1
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@every_pool
def test_a_map_shifted_with_its_boxes_gives_the_same(pool: Callable[..., Tensor], how: dict[str, Any], device: str) -> None:
    features, boxes = (x.to(device) for x in maps_and_boxes())
    features, boxes = pad(features, (3, 3, 3, 3)), boxes.clamp(0, 36) + 12
    shifted = features.roll((2, -1), (-2, -1)), boxes + torch.tensor([-4.0, 8.0, -4.0, 8.0], device=device)
    torch.testing.assert_close(pool(features, boxes, scale=0.25, **how), pool(*shifted, scale=0.25, **how), rtol=1e-9, atol=1e-9)


@every_pool
def test_transposed(pool: Callable[..., Tensor], how: dict[str, Any], device: str) -> None:
    """Rows and columns are treated alike."""
    features, boxes = (x.to(device) for x in maps_and_boxes())
    other = pool(features.mT, boxes[..., [1, 0, 3, 2]], scale=0.25, **how)
    torch.testing.assert_close(other.mT, pool(features, boxes, scale=0.25, **how), rtol=1e-9, atol=1e-9)


@every_pool
def test_a_part_of_a_finer_grid_is_a_mean(pool: Callable[..., Tensor], how: dict[str, Any], device: str) -> None:
    """Four cells of the grid of twice the size; with two samples a cell against one, and exactly where the integral is exact."""
    features, boxes = (x.to(device) for x in maps_and_boxes())
    if how:
        return
    fine, coarse = ({"samples": 1}, {"samples": 2}) if pool is roi_align else ({}, {})
    mean = pool(features, boxes, scale=0.25, size=6, **fine).unflatten(-1, (3, 2)).unflatten(-3, (3, 2)).mean((-3, -1))
    torch.testing.assert_close(mean, pool(features, boxes, scale=0.25, size=3, **coarse), rtol=1e-9, atol=1e-9)


@every_pool
def test_gradients(pool: Callable[..., Tensor], how: dict[str, Any], device: str) -> None:
    features, boxes = (x.to(device).requires_grad_() for x in maps_and_boxes(2))

    def run(*given: Tensor) -> Tensor:
        return pool(*given, scale=0.25, size=2, **how)

    if pool in (precise_roi_pool, among_many):
        assert torch.autograd.gradcheck(run, (features, boxes), fast_mode=True)
    else:
        assert torch.autograd.gradcheck(lambda x: run(x, boxes), (features,), fast_mode=True)
        assert torch.autograd.grad(run(features, boxes).sum(), boxes, allow_unused=True) == (None,)


@pytest.mark.parametrize("pool", [precise_roi_pool, among_many], ids=["of few boxes", "of many boxes"])
def test_the_gradient_of_a_border_on_the_centre_of_a_cell(pool: Callable[..., Tensor], device: str) -> None:
    """There, and one cell beyond the map, the pieces of the integral meet without a kink."""
    features, _ = (x.to(device) for x in maps_and_boxes(2))
    boxes = torch.tensor([[-4.0, 0.0, 8.0, 36.0], [4.0, -8.0, 52.0, 32.0]], dtype=torch.float64, device=device)[:, None].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pool(features, x, scale=0.25, size=2), (boxes,))


def test_moving_a_box_uphill(device: str) -> None:
    """The gradient with respect to the box leads it from a distance onto what stands out on the map."""
    features = torch.zeros(1, 1, 16, 16, dtype=torch.float64, device=device)
    features[..., 5:9, 6:10] = 1
    box = torch.tensor([[[2.0, 3.0, 8.0, 7.0]]], dtype=torch.float64, device=device, requires_grad=True)
    for _ in range(60):
        (gradient,) = torch.autograd.grad(precise_roi_pool(features, box, scale=1.0, size=1).sum(), box)
        box = (box + 2 * gradient).detach().requires_grad_()
    assert precise_roi_pool(features, box, scale=1.0, size=1).item() > 0.99


@every_pool
def test_small_and_far_boxes_are_finite(pool: Callable[..., Tensor], how: dict[str, Any], device: str) -> None:
    features, _ = maps_and_boxes(dtype=torch.float32)
    hard = [
        [8.0, 8.0, 8.0, 8.0],
        [8.0, 8.0, 8.0 + 1e-5, 30.0],
        [1e6, 1e6, 1e6 + 20, 1e6 + 10],
        [-1e6, -1e6, 1e6, 1e6],
        [20.0, 20.0, 8.0, 9.0],
    ]
    boxes = torch.tensor(hard, device=device).expand(2, 5, 4).clone().requires_grad_()
    features = features.to(device).requires_grad_()
    found = pool(features, boxes, scale=0.25, **how)
    assert found.isfinite().all()
    assert (found[:, 2] == 0).all()
    for gradient in torch.autograd.grad(found.sum(), (features, boxes), allow_unused=True):
        assert gradient is None or gradient.isfinite().all()


@every_pool
def test_no_boxes_and_no_images(pool: Callable[..., Tensor], how: dict[str, Any], device: str) -> None:
    features, boxes = (x.to(device) for x in maps_and_boxes())
    assert pool(features, boxes[:, :0], scale=0.25, **how).shape == (2, 0, 3, 7, 7)
    assert pool(features[:0], boxes[:0], scale=0.25, **how).shape == (0, 6, 3, 7, 7)


@every_pool
def test_maps_and_boxes_may_differ_in_precision(pool: Callable[..., Tensor], how: dict[str, Any], device: str) -> None:
    features, boxes = (x.to(device) for x in maps_and_boxes(dtype=torch.float32))
    expected = pool(features.double(), boxes.double(), scale=0.25, **how)
    for given in ((features, boxes.double()), (features.double(), boxes)):
        torch.testing.assert_close(pool(*given, scale=0.25, **how).double(), expected, rtol=1e-5, atol=1e-5)


@every_pool
def test_autocast_changes_nothing(pool: Callable[..., Tensor], how: dict[str, Any], device: str) -> None:
    features, boxes = (x.to(device) for x in maps_and_boxes(dtype=torch.float32))
    with torch.autocast(device, dtype=torch.bfloat16):
        found = pool(features, boxes, scale=0.25, **how)
    torch.testing.assert_close(found, pool(features, boxes, scale=0.25, **how))


@every_pool
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_dtype_is_that_of_the_features(pool: Callable[..., Tensor], how: dict[str, Any], dtype: torch.dtype, device: str) -> None:
    """Half precision is a rounding of the result, however large the boxes."""
    features, boxes = (x.to(device) for x in maps_and_boxes(dtype=torch.float32))
    features = features.to(dtype)
    found = pool(features, boxes, scale=0.25, **how)
    assert found.dtype is dtype
    exact = pool(features.double(), boxes.double(), scale=0.25, **how)
    torch.testing.assert_close(found.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=max(1e-4, torch.finfo(dtype).eps))


def test_integrals_of_large_maps_keep_their_digits(device: str) -> None:
    """Running sums far from zero are subtracted from each other."""
    features = (1000 + torch.rand(1, 1, 200, 300, generator=torch.Generator().manual_seed(0))).to(device)
    boxes = torch.tensor([[[290.0, 190.0, 292.0, 191.5]]], device=device)
    corner = features[..., 185:, 285:].double()
    alone = precise_roi_pool(corner, boxes - boxes.new_tensor([285.0, 185.0, 285.0, 185.0]), scale=1.0)
    for pool in (precise_roi_pool, among_many):
        torch.testing.assert_close(pool(features, boxes, scale=1.0).double(), alone, rtol=1e-6, atol=0)


@pytest.mark.parametrize("n", [8, FEW // 2])
@pytest.mark.parametrize(
    ("of_levels", "of_one", "how"),
    [(roi_align_levels, roi_align, {}), (roi_align_levels, roi_align, {"samples": None}), (precise_roi_pool_levels, precise_roi_pool, {})],
    ids=["roi_align", "roi_align, adaptive", "precise_roi_pool"],
)
def test_each_box_is_pooled_from_its_level(
    of_levels: Callable[..., Tensor], of_one: Callable[..., Tensor], how: dict[str, Any], n: int, device: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(2, 4, h, w, generator=generator).to(device).requires_grad_() for h, w in ((18, 26), (9, 13), (5, 7))]
    boxes = maps_and_boxes(n, dtype=torch.float32)[1].to(device)
    level, scales = torch.randint(0, 3, (2, n), generator=generator).to(device), [0.5, 0.25, 0.125]
    found = of_levels(levels, boxes, level, scales=scales, size=3, **how)
    alone = torch.stack([of_one(x, boxes, scale=scale, size=3, **how) for x, scale in zip(levels, scales, strict=True)])
    expected = sum(alone[i] * (level == i)[..., None, None, None] for i in range(3))
    torch.testing.assert_close(found, expected)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), levels) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_large_boxes_are_pooled_from_coarse_levels(device: str) -> None:
    """From twice the size on, from the next level; from the last one if there is no coarser."""
    levels = [torch.full((1, 2, 256 >> i, 256 >> i), float(i), device=device) for i in range(3)]
    side = torch.tensor([8.0, 111.0, 112.0, 223.0, 224.0, 900.0], device=device)
    boxes = torch.stack((50 + 0 * side, 50 + 0 * side, 50 + side, 50 + side), -1)[None]
    pooled = roi_align_by_size(levels, boxes, scale=0.25, finest_size=112.0)
    assert pooled[0, :, 0, 0, 0].round().tolist() == [0, 0, 1, 1, 2, 2]
    assert roi_align_by_size(levels[1:2], boxes, scale=0.25, finest_size=112.0)[0, :, 0, 0, 0].round().eq(1).all()


@pytest.mark.parametrize("samples", [0, -1])
def test_no_samples_are_named(samples: int) -> None:
    """torchvision and detectron2 mean as many as fit by that."""
    with pytest.raises(ValueError, match=f"`samples` is {samples}; expected at least 1, or None"):
        roi_align(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 4), scale=0.5, samples=samples)


def test_levels_that_do_not_fit_are_named() -> None:
    boxes, level = torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="2 `levels`, but 1 `scales`"):
        roi_align_levels([torch.zeros(1, 3, 4, 4)] * 2, boxes, level, scales=[0.5])
    with pytest.raises(ValueError, match=r"`levels\[1\]`"):
        precise_roi_pool_levels([torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 2, 2)], boxes, level, scales=[0.5, 0.25])


@every_pool
@changing_sizes
def test_compiled_it_gives_the_same_in_one_graph_for_all_sizes(pool: Callable[..., Tensor], how: dict[str, Any], device: str) -> None:
    counter = CompileCounter()
    compiled = torch.compile(pool, fullgraph=True, backend=counter)
    features, boxes = (x.to(device) for x in maps_and_boxes(9))
    for n, height, width in ((3, 5, 6), (5, 7, 9), (8, 9, 13)):
        given = features[..., :height, :width].contiguous(), boxes[:, :n].contiguous()
        torch.testing.assert_close(compiled(*given, scale=0.25, **how), pool(*given, scale=0.25, **how))
    assert counter.frame_count <= 2
