"""Laws of cutting and pasting."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from reference_impl.generation import (
    blurred_mask,
    cut_paste,
    hides_another,
    motion_blur,
    poisson_blend,
    random_shift,
    scale_and_rotate,
)


def scene(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """A background and four sources of 20 by 30 pixels, each with a rectangle as object."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, 20, 30, generator=generator, dtype=torch.float64)
    mask = torch.zeros(4, 20, 30, dtype=torch.bool)
    for i, (y, x) in enumerate([(2, 3), (8, 11), (12, 20), (0, 0)]):
        mask[i, y : y + 5 + i, x : x + 7 - i] = True
    return images[0].to(device), images[1:].to(device), mask.to(device)


def shifts(*pairs: tuple[int, int], device: str) -> Tensor:
    return torch.tensor(pairs, device=device)


def test_one_after_the_other_is_all_at_once(device: str) -> None:
    image, source, mask = scene(device)
    alpha, shift = blurred_mask(mask.double()), shifts((1, 0), (-4, -3), (-9, -2), (5, 6), device=device)
    together, boxes, _ = cut_paste(image, source, mask, shift, alpha)
    for k in range(4):
        one = slice(k, k + 1)
        image, box, visible = cut_paste(image, source[one], mask[one], shift[one], alpha[one])
        assert box[0].equal(boxes[k])
        assert visible[0] == 1
    torch.testing.assert_close(image, together)


def test_a_hard_mask_copies_pixels(device: str) -> None:
    image, source, mask = scene(device)
    pasted, boxes, visible = cut_paste(image, source[:1], mask[:1], shifts((4, 5), device=device))
    moved = mask[0].roll((5, 4), (0, 1))
    assert pasted[:, moved].equal(source[0][:, mask[0]])
    assert pasted[:, ~moved].equal(image[:, ~moved])
    assert boxes.tolist() == [[7, 7, 14, 12]]
    assert visible.tolist() == [1]


def test_opacity_changes_the_image_and_not_the_boxes(device: str) -> None:
    image, source, mask = scene(device)
    shift = shifts((1, 0), (-4, -3), (-9, -2), (5, 6), device=device)
    hard, soft = cut_paste(image, source, mask, shift), cut_paste(image, source, mask, shift, blurred_mask(mask.double()))
    assert not hard[0].equal(soft[0])
    assert hard[1].equal(soft[1])
    assert hard[2].equal(soft[2])
    nothing, *_ = cut_paste(image, source, mask, shift, torch.zeros_like(mask, dtype=torch.float64))
    assert nothing.equal(image)


def test_a_blur_keeps_the_mass_and_the_inside(device: str) -> None:
    mask = torch.zeros(30, 30, dtype=torch.float64, device=device)
    mask[8:20, 9:22] = 1
    for radius, sigma in ((1, 1e9), (2, 2.0), (4, 1.5)):
        soft = blurred_mask(mask, radius=radius, sigma=sigma)
        torch.testing.assert_close(soft.sum(), mask.sum())
        inside = soft[8 + radius : 20 - radius, 9 + radius : 22 - radius]
        torch.testing.assert_close(inside, torch.ones_like(inside))
    assert blurred_mask(mask, radius=0).equal(mask)


def test_every_allowed_place_is_as_likely(device: str) -> None:
    noise = torch.rand(50_000, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
    boxes = torch.tensor([[3.0, 2.0, 11.0, 6.0]], dtype=torch.float64, device=device)
    size = torch.tensor([20.0, 12.0], dtype=torch.float64, device=device)
    shift = random_shift(boxes.expand(50_000, 1, 4), size.expand(50_000, 2), noise)
    x, y = shift[:, 0, 0] + 3, shift[:, 0, 1] + 2
    # Degrees of freedom 16 and 10, quantiles 1 - 1e-4.
    for place, lowest, number, limit in ((x, -2, 17, 45.9), (y, -1, 11, 35.6)):
        counts = torch.bincount(place - lowest, minlength=number).double()
        assert len(counts) == number
        assert ((counts - 50_000 / number).square() / (50_000 / number)).sum() < limit


def test_no_more_than_the_allowed_part_lies_outside(device: str) -> None:
    image, source, mask = scene(device)
    boxes = cut_paste(image, source, mask, torch.zeros(4, 2, dtype=torch.int64, device=device))[1]
    size = torch.tensor([30.0, 20.0], dtype=torch.float64, device=device)
    for share in (0.0, 0.25, 0.5):
        for _ in range(20):
            shift = random_shift(boxes, size, max_truncation=share)
            left = cut_paste(image, source, mask, shift)[1]
            rest = (left[:, 2:] - left[:, :2]) / (boxes[:, 2:] - boxes[:, :2])
            assert (rest >= 1 - share).all()


def test_the_first_object_hides_nothing(device: str) -> None:
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]] * 5, dtype=torch.float64, device=device)
    assert hides_another(boxes).tolist() == [False, True, True, True, True]
    assert not hides_another(boxes, max_overlap=1.0).any()


def test_only_differences_of_colour_are_blended(device: str) -> None:
    image, source, mask = scene(device)
    shift = torch.tensor([5, 6], device=device)
    blended = poisson_blend(image, source[0], mask[0], shift)
    torch.testing.assert_close(poisson_blend(image, source[0] + 3, mask[0], shift), blended)
    moved = mask[0].roll((6, 5), (0, 1))
    assert blended[:, ~moved].equal(image[:, ~moved])
    assert poisson_blend(image, image, mask[0], torch.tensor([0, 0], device=device)).equal(image)


def test_a_blend_solves_its_equations(device: str) -> None:
    image, source, mask = scene(device)
    blended = poisson_blend(image, source[1], mask[1], torch.tensor([0, 0], device=device))
    kernel = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]], dtype=torch.float64, device=device)[None, None]
    found, wanted = (conv2d(x[:, None], kernel, padding=1)[:, 0, mask[1]] for x in (blended, source[1]))
    torch.testing.assert_close(found, wanted)


def test_a_blur_by_motion_keeps_flat_colours_and_has_no_sense_of_time(device: str) -> None:
    image, *_ = scene(device)
    flat = torch.full_like(image, 0.25)
    for degrees in (0.0, 22.0, 90.0, 147.0):
        angle = torch.tensor(degrees, dtype=torch.float64, device=device)
        torch.testing.assert_close(motion_blur(flat, angle), flat)
        torch.testing.assert_close(motion_blur(image, angle), motion_blur(image, angle + 180))
        torch.testing.assert_close(motion_blur(image, angle, before=0), motion_blur(image, angle + 180, after=0))
        assert motion_blur(image, angle, before=0, after=0).equal(image)


def test_an_object_turned_back_is_the_object(device: str) -> None:
    _, source, mask = scene(device)
    source = source * mask[:, None]
    still = torch.tensor([[1.0, 0.5]] * 4, dtype=torch.float64, device=device)
    kept, kept_mask = scale_and_rotate(source, mask, still, max_scale=1.0)
    torch.testing.assert_close(kept, source)
    assert kept_mask.equal(mask)
    odd = torch.zeros(1, 21, 21, dtype=torch.bool, device=device)
    odd[0, 6:13, 8:15] = True
    source = torch.rand(1, 1, 21, 21, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device) * odd[:, None]
    turned = scale_and_rotate(source, odd, still[:1] + still.new_tensor([0, 0.5]), max_scale=1.0, max_degrees=90.0)[0]
    middle = slice(6, 13), slice(8, 15)
    torch.testing.assert_close(turned[0, 0][middle], source[0, 0][middle].rot90())
