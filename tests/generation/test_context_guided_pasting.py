"""Laws of pasting where the context asks for it, and that the context network learns from the surroundings alone."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from reference_impl.generation import (
    ContextNetwork,
    background_contexts,
    boxes_beside,
    candidate_boxes,
    context_frames,
    context_guided_pasting,
    distorted_colours,
    drawn_places,
    fitting_instances,
    jittered_boxes,
    recoloured_instances,
    scaled_boxes,
    uncovered,
)
from reference_impl.ops.boxes import box_area, box_center, box_intersection, box_iou, box_size, clip_boxes
from reference_impl.ops.colour import luminance

DRAWS = 6000


def uniform(*size: int, device: str, seed: int = 1) -> Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(device)


def boxes(n: int, device: str) -> Tensor:
    """Boxes of 5 to 25 pixels in an image of 60 by 50."""
    size = 5 + 20 * uniform(n, 2, device=device)
    corner = uniform(n, 2, device=device, seed=2) * (torch.tensor([60.0, 50.0], device=device) - size)
    return torch.cat((corner, corner + size), -1)


def pixels(*sizes: float, device: str) -> Tensor:
    return torch.tensor(sizes, dtype=torch.float64, device=device)


def chi_square(count: Tensor, expected: Tensor) -> float:
    return ((count - expected).square() / expected).sum().item()


def test_candidates_have_the_sizes_and_shapes_of_objects(device: str) -> None:
    """As many in each bin as the smoothed counts say; all in the image."""
    counts = torch.tensor([[5, 0, 1], [2, 3, 0], [0, 0, 9]], device=device)
    limits = torch.tensor([[0.05, 0.35], [0.5, 2.0]], dtype=torch.float64, device=device)
    size = pixels(60, 50, device=device)
    drawn = candidate_boxes(size, counts, limits, uniform(DRAWS, 4, device=device), smoothing=1.0)
    assert (drawn >= 0).all()
    assert (drawn[:, 2:] <= size + 1e-9).all()
    width, height = box_size(drawn).unbind(-1)
    row, column = ((box_area(drawn) / 3000 - 0.05) / 0.1).long(), ((width / height - 0.5) / 0.5).long()
    weight = (counts + 1).flatten().double()
    # 8 degrees of freedom, of which 31.8 is the 1 - 1e-4 quantile.
    assert chi_square((row * 3 + column).bincount(minlength=9), DRAWS * weight / weight.sum()) < 31.8


def test_a_frame_contains_its_box_lies_in_the_image_and_shows_enough(device: str) -> None:
    box, size = boxes(2000, device), pixels(60, 50, device=device)
    for least in (0.1, 0.3, 0.6):
        frame = context_frames(box, size, min_context=least)
        assert (frame[:, :2] <= box[:, :2] + 1e-9).all()
        assert (frame[:, 2:] >= box[:, 2:] - 1e-9).all()
        assert (frame[:, :2] >= 0).all()
        assert (frame[:, 2:] <= size + 1e-9).all()
        assert (box_area(frame) - box_area(box) >= least * 3000 - 1e-6).all()


def test_a_jittered_box_is_the_first_try_that_is_small_enough(device: str) -> None:
    size = pixels(60, 50, device=device)
    corner, noise = size * uniform(300, 2, device=device) / 4, uniform(300, 4, 3, device=device)
    large = torch.cat((corner, size - corner.flip(0)), -1)
    found = jittered_boxes(large, size, noise)
    stayed = 0
    for box, tries, got in zip(large, noise, found, strict=True):
        expected = box
        for u, x, y in tries.tolist():
            half = (1 + 0.3 * u) * box_size(box) / 2
            center = box_center(box) + 0.3 * u * half * pixels(2 * x - 1, 2 * y - 1, device=device)
            cut = clip_boxes(torch.cat((center - half, center + half)), size)
            if (2 * half < size).all() and box_area(cut) < 0.7 * 3000:
                expected = cut
                break
        stayed += expected is box
        torch.testing.assert_close(got, expected)
    assert 0 < stayed < 300


def test_a_jittered_box_reaches_every_size_and_place_that_it_may(device: str) -> None:
    box, size = pixels(25, 20, 35, 30, device=device), pixels(60, 50, device=device)
    drawn = jittered_boxes(box.expand(DRAWS, 4), size, uniform(DRAWS, 1, 3, device=device))
    scale = box_size(drawn) / 10
    torch.testing.assert_close(scale[:, 0], scale[:, 1])
    where = (box_center(drawn) - box_center(box)) / (5 * scale * (scale - 1)) / 2 + 0.5
    for share in ((scale[:, 0] - 1) / 0.3, *where.unbind(-1)):
        count = (10 * share.clamp(0, 1 - 1e-9)).long().bincount(minlength=10)
        # 9 degrees of freedom, of which 33.7 is the 1 - 1e-4 quantile.
        assert chi_square(count, torch.full((10,), DRAWS / 10, device=device)) < 33.7


def test_background_covers_little_of_every_object(device: str) -> None:
    objects, candidates = boxes(8, device), boxes(300, device).flip(0)
    found = background_contexts(objects, candidates)
    slow = [max((box_intersection(b, o) / box_area(o)).item() for o in objects) < 0.3 for b in candidates]
    assert found.tolist() == slow
    assert found.any()
    assert not found.all()
    assert background_contexts(objects, candidates, torch.zeros(8, dtype=torch.bool, device=device)).all()


def test_the_network_sees_neither_the_inside_of_the_box_nor_what_is_outside_the_frame(device: str) -> None:
    network = ContextNetwork(3, width=4, size=16).double().to(device)
    image = torch.randn(1, 3, 24, 32, dtype=torch.float64, device=device)
    box, frame = pixels(10, 8, 16, 14, device=device).view(1, 1, 4), pixels(4, 4, 24, 20, device=device).view(1, 1, 4)
    before = network(image, box, frame)
    hidden = image.clone()
    hidden[..., 8:14, 10:16] += 5
    hidden[..., :4, :] += 5
    hidden[..., 24:] += 5
    assert network(hidden, box, frame).equal(before)
    hidden[..., 7, 12] += 5
    assert not network(hidden, box, frame).equal(before)


def test_colours_change_in_each_of_four_orders_as_often(device: str) -> None:
    """A pixel of one channel shows the order: what is added before the contrast is changed, or before values are cut, is not the same."""
    image = uniform(3, 1, 2, device=device)
    noise = torch.cat((uniform(DRAWS, 1, device=device), pixels(0.9, 0.9, 0.8, 0.9, device=device).expand(DRAWS, 4)), -1)
    _, count = distorted_colours(image.expand(DRAWS, 3, 1, 2), noise).flatten(1).unique(dim=0, return_counts=True)
    # 3 degrees of freedom, of which 21.1 is the 1 - 1e-4 quantile.
    assert chi_square(count, torch.full((4,), DRAWS / 4, device=device)) < 21.1


def test_each_change_of_colours_does_what_its_name_says(device: str) -> None:
    image = 0.3 + 0.4 * uniform(200, 3, 4, 5, device=device)
    none = {"brightness": 0.0, "saturation": 0.0, "hue": 0.0, "contrast": 0.0}
    torch.testing.assert_close(distorted_colours(image, **none), image)
    brighter = (distorted_colours(image, **none | {"brightness": 0.2}) - image).flatten(1)
    torch.testing.assert_close(brighter, brighter[:, :1].expand_as(brighter))
    assert brighter.abs().max() <= 0.2
    turned = distorted_colours(image, **none | {"hue": 0.5})
    torch.testing.assert_close(turned.amax(1), image.amax(1))
    torch.testing.assert_close(turned.amin(1), image.amin(1))
    stretched = distorted_colours(image, **none | {"contrast": 0.2})
    torch.testing.assert_close(stretched.mean((-2, -1)), image.mean((-2, -1)))
    torch.testing.assert_close(distorted_colours(image, **none | {"saturation": 0.2}).amax(1), image.amax(1))
    assert not turned.equal(image)
    assert not stretched.equal(image)


def scenes(n: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Images with one box: on green lies class 0, on blue class 1, on grey nothing; inside the box is noise."""
    draw = torch.Generator().manual_seed(0)
    label = torch.randint(3, (n,), generator=draw)
    image = 0.3 * torch.randn(n, 3, 24, 24, generator=draw)
    image[torch.arange(n), label.clamp(max=1) + 1] += (label < 2).float()[:, None, None]
    corner = torch.randint(2, 12, (n, 2), generator=draw)
    box = torch.cat((corner, corner + 8), -1).float()
    for i, (x, y) in enumerate(corner.tolist()):
        image[i, :, y : y + 8, x : x + 8] = 3 * torch.randn(3, 8, 8, generator=draw)
    return image.to(device), box[:, None].to(device), label.to(device)


def test_the_network_learns_which_class_belongs_where(device: str) -> None:
    torch.manual_seed(0)
    network = ContextNetwork(2, width=4, size=16).to(device)
    image, box, label = scenes(64, device)
    frame = context_frames(box, torch.full((64, 2), 24.0, device=device), torch.rand(64, 1, 4).to(device))
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss = cross_entropy(network(image, box, frame).squeeze(1), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert (network(image, box, frame).squeeze(1).argmax(-1) == label).float().mean() > 0.9


def test_an_instance_of_the_class_that_fits_is_scaled_into_the_box(device: str) -> None:
    n = 300
    place, instance, size = boxes(n, device), boxes(n, device).flip(0), pixels(60, 50, device=device)
    labels, kinds = torch.arange(n, device=device) % 3, torch.arange(n, device=device) % 4
    index, target = fitting_instances(place, labels, instance, kinds, size, uniform(n, 4, device=device))
    found = index >= 0
    assert found.any()
    assert (target[~found] == 0).all()
    assert (kinds[index[found]] == labels[found]).all()
    own, wanted = box_size(target[found]), box_size(place[found])
    scale = own / box_size(instance[index[found]])
    torch.testing.assert_close(scale[:, 0], scale[:, 1])
    assert (scale >= 0.5 - 1e-9).all()
    assert (scale <= 2 + 1e-9).all()
    corner = torch.zeros_like(own)
    assert (box_iou(torch.cat((corner, own), -1), torch.cat((corner, wanted), -1)) > 0.68).all()
    shift = (target[:, :2] + target[:, 2:] - place[:, :2] - place[:, 2:])[found] / 2
    assert (shift.abs() <= 0.2 * wanted + 1e-9).all()
    moved = place[found] + torch.cat((shift, shift), -1)
    assert (moved >= -1e-9).all()
    assert (moved[:, 2:] <= size + 1e-9).all()


def test_no_instance_that_fits_is_left_out(device: str) -> None:
    """A slow search over instances and scales finds one exactly where an index is given."""
    place, instance = boxes(40, device), boxes(30, device).flip(0)
    labels, kinds = torch.arange(40, device=device) % 2, torch.arange(30, device=device) % 2
    index, _ = fitting_instances(place, labels, instance, kinds, pixels(60, 50, device=device))
    for i in range(40):
        w, h = box_size(place[i]).tolist()
        fits = False
        for j in range(30):
            for s in torch.linspace(0.5, 2, 16, dtype=torch.float64).tolist():
                a, b = (s * box_size(instance[j])).tolist()
                shared = min(a, w) * min(b, h)
                fits |= bool(kinds[j] == labels[i]) and shared / (a * b + w * h - shared) > 0.7
        assert (index[i] >= 0).item() is fits


def test_every_instance_that_fits_is_as_likely_as_any_other(device: str) -> None:
    place = pixels(10, 10, 20, 20, device=device).expand(DRAWS, 4)
    sizes = torch.tensor([[10.0, 10], [9, 10], [3, 20], [8, 8], [12, 11]], dtype=torch.float64, device=device)
    instance = torch.cat((torch.zeros_like(sizes), sizes), -1)
    labels = torch.zeros(DRAWS, dtype=torch.int64, device=device)
    kinds = torch.tensor([0, 0, 0, 1, 0], device=device)
    noise = uniform(DRAWS, 4, device=device)
    index, _ = fitting_instances(place, labels, instance, kinds, pixels(60, 50, device=device), noise)
    count = index.bincount(minlength=5)
    assert count[[2, 3]].tolist() == [0, 0]
    # 2 degrees of freedom, of which 18.4 is the 1 - 1e-4 quantile.
    assert chi_square(count[[0, 1, 4]], torch.full((3,), DRAWS / 3, device=device)) < 18.4


def test_places_are_drawn_in_proportion_to_their_scores_one_after_the_other(device: str) -> None:
    score = torch.tensor([0.9, 0.0, 0.75, 0.8, 0.72], dtype=torch.float64, device=device)
    drawn = drawn_places(score.expand(DRAWS, 5), uniform(DRAWS, 5, device=device))
    assert (drawn.sum(-1) == 2).all()
    assert not drawn[:, 1].any()
    pairs, expected = [], []
    for i in (0, 2, 3, 4):
        for j in (k for k in (0, 2, 3, 4) if k > i):
            p, q, total = score[i].item(), score[j].item(), score.sum().item()
            pairs.append((drawn[:, i] & drawn[:, j]).sum())
            expected.append(DRAWS * p * q / total * (1 / (total - p) + 1 / (total - q)))
    # 5 degrees of freedom, of which 25.7 is the 1 - 1e-4 quantile.
    assert chi_square(torch.stack(pairs), torch.tensor(expected, device=device)) < 25.7


def test_half_of_the_time_contrast_colour_or_brightness_changes(device: str) -> None:
    draw = uniform(DRAWS, 3, device=device)
    source = 0.4 + 0.2 * uniform(3, 2, 2, device=device)
    changed = recoloured_instances(source.expand(DRAWS, 3, 2, 2), pixels(0, 0, 2, 2, device=device).expand(DRAWS, 4), draw)
    assert (changed == source).flatten(1).all(1).equal((draw < 0.5).all(1))
    brightness = luminance(changed).mean((-3, -2, -1)) / luminance(source).mean()
    same = (brightness - 1).abs() < 1e-9
    assert same.equal(draw[:, 2] < 0.5)
    assert 0.5 <= brightness.min() < 0.51
    assert 1.49 < brightness.max() < 1.5


def test_an_enlarged_object_covers_itself(device: str) -> None:
    """Nothing of the old object is seen, and its centre stays."""
    tight = torch.tensor([[4.0, 5, 12, 11], [14, 2, 26, 17]], dtype=torch.float64, device=device)
    image = torch.zeros(1, 20, 30, dtype=torch.float64, device=device)
    mask = torch.zeros(2, 20, 30, dtype=torch.bool, device=device)
    for k, (x1, y1, x2, y2) in enumerate(tight.int().tolist()):
        mask[k, y1:y2, x1:x2] = True
        image[:, y1:y2, x1:x2] = k + 1
    target = scaled_boxes(tight, uniform(2, device=device))
    torch.testing.assert_close(box_center(target), box_center(tight))
    scale = box_size(target) / box_size(tight)
    torch.testing.assert_close(scale[:, 0], scale[:, 1])
    assert (scale >= 1.2).all()
    assert (scale <= 1.6).all()
    marked, _ = context_guided_pasting(image, image.expand(2, 1, 20, 30) + 5, mask, tight, target)
    assert (marked[:, mask.any(0)] > 5).all()


def test_a_copy_is_the_first_try_that_lies_beside_its_object(device: str) -> None:
    size, own = pixels(60, 50, device=device), scaled_boxes(boxes(300, device), uniform(300, device=device), min_scale=0.5, max_scale=2.0)
    noise = uniform(300, 3, 2, device=device)
    placed = boxes_beside(own, size, noise)
    nowhere = 0
    for box, tries, got in zip(own, noise, placed, strict=True):
        expected = torch.zeros_like(box)
        for x, y in tries.tolist():
            copy = box + (0.75 * box_size(box) * pixels(2 * x - 1, 2 * y - 1, device=device)).repeat(2)
            seen = clip_boxes(copy, size)
            if 0.2 < box_iou(seen, box) < 0.7 and box_area(seen) > 0.35 * box_area(copy):
                expected = copy
                break
        nowhere += not expected.any()
        torch.testing.assert_close(got, expected)
    assert 0 < nowhere < 300


def test_a_copy_is_pasted_without_any_limit_of_overlap_where_that_is_asked(device: str) -> None:
    own, size = boxes(400, device), pixels(60, 50, device=device)
    placed = boxes_beside(own, size, uniform(400, 1, 2, device=device), reach=0.6, min_iou=-1.0, max_iou=2.0)
    used = box_area(placed) > 0
    away = (box_center(placed) - box_center(own)).abs() / box_size(placed)
    assert (away[used] <= 1.1).all()
    assert (away[used] > 0.75).any()
    assert (box_area(clip_boxes(placed, size))[used] > 0.35 * box_area(placed)[used]).all()


def test_one_after_the_other_is_all_at_once(device: str) -> None:
    image, source = torch.rand(3, 20, 30, dtype=torch.float64, device=device), torch.rand(4, 3, 20, 30, dtype=torch.float64, device=device)
    mask = torch.zeros(4, 20, 30, dtype=torch.bool, device=device)
    box = torch.tensor([[2, 3, 12, 9], [5, 5, 9, 17], [0, 0, 30, 20], [11, 4, 12, 5]], dtype=torch.float64, device=device)
    target = torch.tensor([[5.5, 1, 22, 14], [-3, 2.2, 7, 25], [8, 8, 14, 12], [20, 15, 24, 19]], dtype=torch.float64, device=device)
    for k, (x1, y1, x2, y2) in enumerate(box.int().tolist()):
        mask[k, y1:y2, x1:x2] = torch.rand(y2 - y1, x2 - x1, device=device) < 0.8
    together, where = context_guided_pasting(image, source, mask, box, target)
    for k in range(4):
        image, one = context_guided_pasting(image, source[k : k + 1], mask[k : k + 1], box[k : k + 1], target[k : k + 1])
        assert one[0].equal(where[k])
    torch.testing.assert_close(image, together)
    assert where[1].tolist() == [0, 2.2, 7, 20]


def test_nothing_changes_outside_the_boxes_that_are_filled(device: str) -> None:
    image = torch.rand(1, 20, 30, dtype=torch.float64, device=device)
    box, target = pixels(0, 0, 30, 20, device=device)[None], pixels(4, 6, 15, 11, device=device)[None]
    pasted, _ = context_guided_pasting(image, image[None] + 1, torch.ones(1, 20, 30, dtype=torch.bool, device=device), box, target)
    changed = (pasted != image)[0]
    assert changed[6:11, 4:15].all()
    assert changed.sum() == 5 * 11


def test_an_object_under_a_pasted_one_is_no_longer_annotated(device: str) -> None:
    objects, target = boxes(50, device), boxes(3, device).flip(0)
    kept = uncovered(objects, target)
    slow = [max((box_intersection(o, t) / box_area(o)).item() for t in target) < 0.7 for o in objects]
    assert kept.tolist() == slow
    assert not uncovered(target, target).any()
