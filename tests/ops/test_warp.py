"""Laws of values between pixels, against torch's own resampling."""

import torch
from torch.nn.functional import grid_sample, interpolate

from reference_impl.ops.warp import bilinear, move_box


def test_as_torch_samples_with_zeros_outside(device: str) -> None:
    maps = torch.rand(3, 2, 5, 7, dtype=torch.float64, device=device)
    x, y = (9 * torch.rand(2, 3, 4, 6, dtype=torch.float64, device=device) - 1.5).unbind(0)
    grid = torch.stack(((2 * x + 1) / 7 - 1, (2 * y + 1) / 5 - 1), -1)
    torch.testing.assert_close(bilinear(maps, x, y), grid_sample(maps, grid, align_corners=False))


def test_a_cut_out_part_is_enlarged_as_by_torch(device: str) -> None:
    maps = torch.rand(2, 3, 6, 7, dtype=torch.float64, device=device)
    box = torch.tensor([[1.0, 2.0, 6.0, 5.0]], dtype=torch.float64, device=device).expand(2, 4)
    onto = torch.tensor([[2.0, 1.0, 12.0, 10.0]], dtype=torch.float64, device=device).expand(2, 4)
    moved = move_box(maps, box, onto, height=11, width=14)
    assert moved[..., 1:10, 2:12].count_nonzero() == moved.count_nonzero()
    torch.testing.assert_close(moved[..., 1:10, 2:12], interpolate(maps[..., 2:5, 1:6], size=(9, 10), mode="bilinear"))


def test_there_and_back_by_whole_pixels_changes_nothing(device: str) -> None:
    maps = torch.zeros(1, 8, 9, dtype=torch.float64, device=device)
    maps[:, 1:4, 2:5] = torch.rand(3, 3, dtype=torch.float64, device=device)
    box = torch.tensor([2.0, 1.0, 5.0, 4.0], dtype=torch.float64, device=device)
    moved = move_box(maps, box, box + 3)
    assert moved[:, 4:7, 5:8].equal(maps[:, 1:4, 2:5])
    assert move_box(moved, box + 3, box).equal(maps)


def test_an_image_without_pixels_is_dark_everywhere(device: str) -> None:
    assert bilinear(torch.zeros(2, 0, 3, device=device), *torch.rand(2, 4, 4, device=device)).equal(torch.zeros(2, 4, 4, device=device))
