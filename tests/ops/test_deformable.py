"""Laws of deformable convolution, and of the sums of rows that it is made of."""

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch.nn.functional import conv2d, pad

from reference_impl.ops.deformable import deformable_conv
from reference_impl.ops.rows import as_rows, sum_of_rows
from tests.ops.theirs import torchvision_ops

GEOMETRY = [(1, 1, 1), (2, 0, 1), (1, 2, 2), (3, 1, 2)]
every_geometry = pytest.mark.parametrize(("stride", "padding", "dilation"), GEOMETRY)


def arguments(stride: int = 1, padding: int = 1, dilation: int = 1, groups: int = 1, spread: float = 1.5) -> list[Tensor]:
    """Map, offsets, weight, bias and mask, for a kernel of three by two."""
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((2, 4, 6, 7), (3, 4, 3, 2), (3,)))
    size = conv2d(x, weight, bias, stride, padding, dilation).shape[-2:]
    offsets = spread * torch.randn(2, groups * 12, *size, generator=draw, dtype=torch.float64)
    return [x, offsets, weight, bias, torch.rand(2, groups * 6, *size, generator=draw, dtype=torch.float64)]


@every_geometry
def test_without_offsets_it_is_a_convolution(stride: int, padding: int, dilation: int, device: str) -> None:
    x, offsets, weight, bias, _ = (t.to(device) for t in arguments(stride, padding, dilation, spread=0))
    found = deformable_conv(x, offsets, weight, bias, stride=stride, padding=padding, dilation=dilation)
    torch.testing.assert_close(found, conv2d(x, weight, bias, stride, padding, dilation))


def test_the_same_whole_offset_everywhere_is_a_shifted_map(device: str) -> None:
    x, offsets, weight, bias, _ = (t.to(device) for t in arguments(spread=0))
    offsets[:, 0::2], offsets[:, 1::2] = 2, -1
    shifted = conv2d(pad(x, (2, 0, 1, 3))[..., 2:, :], weight, bias)[..., : offsets.shape[-1]]
    torch.testing.assert_close(deformable_conv(x, offsets, weight, bias, padding=1), shifted)


def test_a_mask_of_one_half_halves_what_is_added_to_the_bias(device: str) -> None:
    x, offsets, weight, bias, mask = (t.to(device) for t in arguments())
    whole = deformable_conv(x, offsets, weight, bias, padding=1)
    half = deformable_conv(x, offsets, weight, bias, torch.full_like(mask, 0.5), padding=1)
    torch.testing.assert_close(half - bias[:, None, None], (whole - bias[:, None, None]) / 2)


@pytest.mark.parametrize("groups", [1, 2])
def test_it_is_the_definition(groups: int, device: str) -> None:
    """Every cell of the map, by how far it is from where the tap looks."""
    x, offsets, weight, bias, mask = arguments(stride=2, groups=groups)
    images, channels, height, width = x.shape
    rows, columns = torch.arange(height), torch.arange(width)
    out = bias[:, None, None].repeat(images, 1, *offsets.shape[-2:])
    for i, r, q, k, c in torch.cartesian_prod(*map(torch.arange, (images, *offsets.shape[-2:], 6, channels))).tolist():
        g = c * groups // channels
        y = r * 2 - 1 + k // 2 + offsets[i, 12 * g + 2 * k, r, q]
        z = q * 2 - 1 + k % 2 + offsets[i, 12 * g + 2 * k + 1, r, q]
        near = (1 - (rows - y).abs()).clamp(min=0)[:, None] * (1 - (columns - z).abs()).clamp(min=0)
        out[i, :, r, q] += weight[:, c, k // 2, k % 2] * mask[i, 6 * g + k, r, q] * (near * x[i, c]).sum()
    found = deformable_conv(*(t.to(device) for t in (x, offsets, weight, bias, mask)), stride=2, padding=1)
    torch.testing.assert_close(found.cpu(), out)


@pytest.mark.parametrize("groups", [1, 2])
def test_as_torchvision(groups: int, device: str) -> None:
    ops = torchvision_ops()
    for stride, padding, dilation in GEOMETRY:
        x, offsets, weight, bias, mask = (t.to(device) for t in arguments(stride, padding, dilation, groups))
        theirs = ops.deform_conv2d(x, offsets, weight, bias, stride, padding, dilation, mask)
        ours = deformable_conv(x, offsets, weight, bias, mask, stride=stride, padding=padding, dilation=dilation)
        torch.testing.assert_close(ours, theirs)


def test_gradients(device: str) -> None:
    given = [t.to(device).requires_grad_() for t in arguments(groups=2)]
    assert torch.autograd.gradcheck(lambda *t: deformable_conv(*t, padding=1), given, fast_mode=True)


def test_offsets_learn_where_to_look(device: str) -> None:
    """From a smooth map, one tap is asked for the value two cells away: its offset goes there."""
    ramp = torch.arange(12, dtype=torch.float64, device=device)
    x = (ramp[:, None] + 0 * ramp)[None, None]
    offsets = torch.zeros(1, 2, 12, 12, dtype=torch.float64, device=device, requires_grad=True)
    weight, wanted = torch.ones(1, 1, 1, 1, dtype=torch.float64, device=device), (x + 2)[..., :9, :]
    for _ in range(30):
        loss = (deformable_conv(x, offsets, weight)[..., :9, :] - wanted).square().sum()
        (gradient,) = torch.autograd.grad(loss, offsets)
        offsets = (offsets - 0.2 * gradient).detach().requires_grad_()
    torch.testing.assert_close(offsets[:, 0, :9], torch.full_like(offsets[:, 0, :9], 2), rtol=1e-3, atol=1e-3)
    assert (offsets[:, 1, :, :-1] == 0).all()  # The last column could only leave the map.


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_dtype_is_kept_and_far_offsets_are_finite(dtype: torch.dtype, device: str) -> None:
    given = [t.to(device, dtype) for t in arguments(spread=1000)]
    found = deformable_conv(*given, padding=1)
    assert found.dtype is dtype
    assert found.isfinite().all()


def test_shapes_that_do_not_fit_are_named() -> None:
    x, offsets, weight, bias, mask = arguments()
    with pytest.raises(ValueError, match=r"`offsets` has shape .* expected \(2, 12, 6, 8\)"):
        deformable_conv(x, offsets[:, :10], weight, padding=1)
    with pytest.raises(ValueError, match="`offsets`"):
        deformable_conv(x, offsets, weight)
    with pytest.raises(ValueError, match=f"12 for each of some equal groups of the {x.shape[1]} channels"):
        deformable_conv(x, offsets.repeat(1, x.shape[1] + 1, 1, 1), weight, padding=1)
    with pytest.raises(ValueError, match="`mask` has 5 channels; expected 6"):
        deformable_conv(x, offsets, weight, bias, mask[:, :5], padding=1)


def test_no_images(device: str) -> None:
    x, offsets, weight, bias, mask = (t.to(device) for t in arguments())
    assert deformable_conv(x[:0], offsets[:0], weight, bias, mask[:0], padding=1).shape == (0, 3, 6, 8)


def test_compiled_it_gives_the_same_in_one_graph_for_all_sizes(device: str) -> None:
    counter = CompileCounter()
    compiled = torch.compile(deformable_conv, fullgraph=True, backend=counter)
    x, offsets, weight, bias, mask = (t.to(device) for t in arguments())
    for height, width in ((3, 4), (4, 6), (6, 7)):
        moved, factor = (t[..., :height, : width + 1].contiguous() for t in (offsets, mask))
        given = x[..., :height, :width].contiguous(), moved, weight, bias, factor
        torch.testing.assert_close(compiled(*given, padding=1), deformable_conv(*given, padding=1))
    assert counter.frame_count <= 2


def test_rows_are_channels_of_locations_and_their_sums_are_a_product(device: str) -> None:
    draw = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 4, 5, generator=draw).to(device)
    table = as_rows(maps)
    assert table[1 * 20 + 2 * 5 + 3].equal(maps[1, :, 2, 3])
    index, weight = torch.randint(0, 40, (6, 7), generator=draw).to(device), torch.randn(6, 7, generator=draw).to(device)
    dense = torch.zeros(6, 40, device=device).scatter_add(1, index, weight)
    torch.testing.assert_close(sum_of_rows(table, index, weight), dense @ table)


def test_channels_last_is_not_copied(device: str) -> None:
    maps = torch.randn(2, 3, 4, 5, device=device).to(memory_format=torch.channels_last)
    assert as_rows(maps).data_ptr() == maps.data_ptr()
