"""Laws of instance switching."""

import torch
from torch import Tensor

from reference_impl.generation import carried_boxes, instance_switching, switching_candidates, switching_weight
from reference_impl.ops.draw import inverse_cdf


def pair(device: str, sizes: tuple[tuple[int, int], tuple[int, int]] = ((6, 9), (6, 9))) -> tuple[Tensor, Tensor, Tensor]:
    """Two images of 20 by 30 pixels with a box each, and masks that fill three quarters of it."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 20, 30, generator=generator, dtype=torch.float64)
    mask = torch.zeros(2, 20, 30, dtype=torch.bool)
    boxes = torch.zeros(2, 4, dtype=torch.float64)
    for i, ((y, x), (h, w)) in enumerate(zip([(2, 3), (9, 16)], sizes, strict=True)):
        boxes[i] = torch.tensor([x, y, x + w, y + h], dtype=torch.float64)
        mask[i, y : y + h, x : x + w] = torch.rand(h, w, generator=generator) < 0.75
    return image.to(device), mask.to(device), boxes.to(device)


def inside(boxes: Tensor) -> Tensor:
    y, x = torch.arange(20, device=boxes.device)[:, None], torch.arange(30, device=boxes.device)
    return torch.stack([(x >= a) & (x < c) & (y >= b) & (y < d) for a, b, c, d in boxes])


def test_outside_the_boxes_nothing_changes(device: str) -> None:
    image, mask, boxes = pair(device, ((6, 9), (10, 4)))
    switched = instance_switching(image, mask, boxes)
    same = ~inside(boxes)[:, None].expand_as(image)
    assert switched[same].equal(image[same])
    assert not switched.equal(image)


def test_boxes_of_one_size_swap_their_pixels(device: str) -> None:
    image, mask, boxes = pair(device)
    switched = instance_switching(image, mask, boxes)
    for i in range(2):
        here, there = inside(boxes)[i], inside(boxes)[1 - i]
        theirs = mask[1 - i][there]
        torch.testing.assert_close(switched[i][:, here][:, theirs], image[1 - i][:, there][:, theirs])
        torch.testing.assert_close(switched[i][:, here][:, ~theirs], image[i][:, here][:, ~theirs])


def test_whole_boxes_switched_twice_are_back(device: str) -> None:
    image, _, boxes = pair(device)
    mask = inside(boxes)
    torch.testing.assert_close(instance_switching(instance_switching(image, mask, boxes), mask, boxes), image)


def test_an_even_surface_stays_even_at_any_size(device: str) -> None:
    image, _, boxes = pair(device, ((6, 9), (10, 4)))
    mask = inside(boxes)
    plain = image.where(~mask[:, None], torch.tensor([0.25, 0.5], dtype=image.dtype, device=device).view(2, 1, 1, 1))
    switched = instance_switching(plain, mask, boxes)
    for i, value in ((0, 0.5), (1, 0.25)):
        torch.testing.assert_close(switched[i][:, mask[i]], torch.full_like(switched[i][:, mask[i]], value))


def test_which_image_is_first_does_not_matter(device: str) -> None:
    image, mask, boxes = pair(device, ((6, 9), (10, 4)))
    other = instance_switching(image.flip(0), mask.flip(0), boxes.flip(0)).flip(0)
    torch.testing.assert_close(other, instance_switching(image, mask, boxes))


def test_what_lies_within_goes_where_its_pixels_go(device: str) -> None:
    """A bright patch within the first object is found in the second image, where its box says."""
    _, _, boxes = pair(device, ((5, 8), (10, 4)))
    image, mask = torch.zeros(2, 1, 20, 30, dtype=torch.float64, device=device), inside(boxes)
    patch = torch.tensor([[5.0, 4, 9, 6]], dtype=torch.float64, device=device)
    image[0, :, 4:6, 5:9] = 1
    carried, there = carried_boxes(patch, boxes[0], boxes[1])
    assert there.all()
    bright = (instance_switching(image, mask, boxes)[1, 0] > 0.5).nonzero()
    assert bright.amin(0).flip(0).tolist() == carried[0, :2].round().tolist()
    assert (bright.amax(0) + 1).flip(0).tolist() == carried[0, 2:].round().tolist()


def test_there_and_back_is_where_it_was(device: str) -> None:
    _, _, switched = pair(device, ((6, 9), (10, 4)))
    within = torch.tensor([[3.5, 2.5, 9, 7], [4, 4, 5, 5]], dtype=torch.float64, device=device)
    carried, _ = carried_boxes(within, switched[0], switched[1])
    back, there = carried_boxes(carried, switched[1], switched[0])
    assert there.all()
    torch.testing.assert_close(back, within)


def objects(device: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    corner = 100 * torch.rand(30, 2, generator=generator, dtype=torch.float64)
    blob = torch.rand(30, 7, 7, generator=generator) < 0.9
    found = {
        "boxes": torch.cat((corner, corner + 20 + 20 * torch.rand(30, 2, generator=generator, dtype=torch.float64)), -1),
        "labels": torch.randint(3, (30,), generator=generator),
        "picture": torch.randint(8, (30,), generator=generator),
        "shape": blob,
    }
    return {name: x.to(device) for name, x in found.items()}


def test_only_one_class_and_two_images(device: str) -> None:
    o = objects(device)
    found = switching_candidates(**o)
    assert found.any()
    assert not (found & (o["labels"][:, None] != o["labels"])).any()
    assert not (found & (o["picture"][:, None] == o["picture"])).any()


def test_with_inverse_ratios_it_goes_both_ways(device: str) -> None:
    found = switching_candidates(**objects(device), min_ratio=0.5, max_ratio=2.0)
    assert found.any()
    assert found.equal(found.T)


def test_weights_share_out_one(device: str) -> None:
    o = objects(device)
    candidate = switching_candidates(**o)
    performance = torch.tensor([0.2, 0.6, 0.4], dtype=torch.float64, device=device)
    weight = switching_weight(candidate, o["labels"], performance)
    assert weight[~candidate].eq(0).all()
    share = torch.zeros_like(performance).index_add(0, o["labels"], weight.sum(-1))
    torch.testing.assert_close(share, torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64, device=device) / 6)
    assert switching_weight(candidate, o["labels"], performance**2).equal(weight)


def test_drawn_pairs_are_of_weak_classes_first_and_alike_within_a_class(device: str) -> None:
    """6000 pairs drawn by weight: the classes come 3 : 1 : 2, and every pair of a class is as likely as any other."""
    o = objects(device)
    candidate = switching_candidates(**o)
    weight = switching_weight(candidate, o["labels"], torch.tensor([0.2, 0.6, 0.4], dtype=torch.float64, device=device))
    noise = torch.rand(6000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
    pair, _ = inverse_cdf(weight.flatten(), noise)
    assert candidate.flatten()[pair].all()
    count = o["labels"][pair // len(candidate)].bincount(minlength=3)
    expected = torch.tensor([3000.0, 1000.0, 2000.0], device=device)
    # 2 degrees of freedom, of which 18.4 is the 1 - 1e-4 quantile.
    assert ((count - expected).square() / expected).sum() < 18.4
    for label in range(3):
        own = pair.bincount(minlength=candidate.numel())[(candidate & (o["labels"] == label)[:, None]).flatten()].double()
        # As many degrees of freedom as pairs but one, and five standard deviations of a chi-square more.
        assert ((own - own.mean()).square() / own.mean()).sum() < len(own) + 5 * (2 * len(own)) ** 0.5
