"""Laws of AttractioNet."""

from itertools import combinations, pairwise

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from reference_impl.heads import AttractioNet, in_out_boxes, in_out_loss, in_out_targets, multi_threshold_nms
from reference_impl.ops.boxes import box_iou
from reference_impl.ops.matching import best_overlaps
from tools.scenes import CLASSES, SIDE, STRIDE, jittered, painted


def network(device: str) -> AttractioNet:
    torch.manual_seed(0)
    return AttractioNet(CLASSES, width=6, hidden=16, size=8, bins=16, scale=1 / STRIDE, most=60, iterations=3).to(device)


def losses(module: AttractioNet, *, seed: int, device: str) -> Tensor:
    features, boxes, _ = painted(4, seed=seed, device=device)
    proposals = jittered(boxes, each=10, seed=seed)
    logits, places = module(features, proposals)
    found = best_overlaps(proposals, boxes)
    own = boxes.gather(1, found.truth[..., None].expand(-1, -1, 4))
    inside, _ = in_out_targets(proposals, own, bins=16)
    trained = found.iou >= 0.4
    of_place = (in_out_loss(places, inside) * trained).sum() / trained.sum()
    return of_place + binary_cross_entropy_with_logits(logits, (found.iou >= 0.5).float())


def test_the_objective_falls_and_attention_moves_to_the_objects(device: str) -> None:
    """From seeds that know nothing of the image, on scenes not seen, every round leaves boxes that lie better."""
    module = network(device)
    with torch.no_grad():
        before = losses(module, seed=99, device=device)
    optimiser = torch.optim.Adam(module.parameters(), lr=5e-3)
    for step in range(50):
        optimiser.zero_grad()
        losses(module, seed=step % 4, device=device).backward()
        optimiser.step()
    with torch.no_grad():
        assert losses(module, seed=99, device=device) < 0.7 * before
    features, boxes, _ = painted(4, seed=99, device=device)
    seeds = AttractioNet.seeds(SIDE, SIDE, count=400).to(device).expand(4, -1, 4)
    found, scores, present = module.propose(features, seeds)
    iou = box_iou(found[:, :, None], boxes[:, None])
    of_seeds = box_iou(seeds[:, :, None], boxes[:, None]).amax(-1).mean()
    rounds = [x[p].mean() for x, p in zip(iou.amax(-1).chunk(3, 1), present.chunk(3, 1), strict=True)]
    for worse, better in pairwise([of_seeds, *rounds]):
        assert worse + 0.02 < better
    kept, order = multi_threshold_nms(found, scores, present)
    first = (order >= 7)[..., None] & kept[..., None]
    assert (iou * first).amax(1).mean() > 0.7


def test_the_range_found_is_the_likeliest_of_all(device: str) -> None:
    """By trying all pairs, on logits drawn at random, with borders and without."""
    draw = torch.Generator().manual_seed(0)
    bins = 7
    logits = 3 * torch.randn(4, 2, bins, generator=draw, dtype=torch.float64).to(device)
    border_logits = 3 * torch.randn(4, 2, 2, bins, generator=draw, dtype=torch.float64).to(device)
    boxes = torch.tensor([[0.0, 0.0, bins, bins]], dtype=torch.float64, device=device).expand(4, 4)
    for borders in (None, border_logits):
        found = in_out_boxes(boxes, logits, borders, context=1.0).round().long()
        for i in range(4):
            for axis in range(2):

                def likelihood(a: int, b: int, x: Tensor = logits[i, axis], lines: Tensor | None = None) -> float:
                    inside = (torch.arange(bins, device=device) >= a) & (torch.arange(bins, device=device) < b)
                    total = logsigmoid(torch.where(inside, x, -x)).sum()
                    if lines is not None:
                        for line, at in zip(lines, (a, b - 1), strict=True):
                            is_border = torch.arange(bins, device=device) == at
                            total = total + logsigmoid(torch.where(is_border, line, -line)).sum()
                    return float(total)

                lines = None if borders is None else borders[i, axis]
                best = max(combinations(range(bins + 1), 2), key=lambda ab: likelihood(*ab, lines=lines))
                assert (int(found[i, axis]), int(found[i, axis + 2])) == best


def test_the_right_probabilities_give_the_object_back(device: str) -> None:
    """To half a column, as far as it lies in the search region."""
    _, boxes, _ = painted(8, seed=0, device=device, dtype=torch.float64)
    proposals = jittered(boxes, each=5, seed=0, spread=0.1)
    own = boxes.repeat_interleave(5, dim=1)
    inside, borders = in_out_targets(proposals, own)
    found = in_out_boxes(proposals, 20.0 * inside - 10)
    size = (proposals[..., 2:] - proposals[..., :2]).repeat(1, 1, 2)
    assert ((found - own).abs() <= 1.8 * size / 28 / 2 + 1e-9).all()
    torch.testing.assert_close(in_out_boxes(proposals, 0.0 * inside, 20.0 * borders - 10), found)


def test_borders_are_the_ends_of_what_is_inside(device: str) -> None:
    _, boxes, _ = painted(8, seed=0, device=device)
    proposals = jittered(boxes, each=5, seed=0, spread=0.5)
    inside, borders = in_out_targets(proposals, boxes.repeat_interleave(5, dim=1))
    assert inside.any(-1).all()
    assert (borders.sum(-1) == 1).all()
    first, last = borders.int().argmax(-1).unbind(-1)
    assert (last - first + 1).equal(inside.sum(-1))


def test_moving_and_stretching_the_image_changes_no_target(device: str) -> None:
    _, boxes, _ = painted(8, seed=0, device=device, dtype=torch.float64)
    proposals, own = jittered(boxes, each=5, seed=0), boxes.repeat_interleave(5, dim=1)
    scale = torch.tensor([2.0, 0.5, 2.0, 0.5], dtype=torch.float64, device=device)
    for a, b in zip(in_out_targets(proposals, own), in_out_targets(scale * proposals + 64, scale * own + 64), strict=True):
        assert a.equal(b)


def test_the_first_proposals_lie_far_apart(device: str) -> None:
    """The ten first overlap by 0.55 at most, the twenty first by 0.6; nothing that is kept has a duplicate."""
    draw = torch.Generator().manual_seed(0)
    corner = 40 * torch.rand(2, 150, 2, generator=draw, dtype=torch.float64).to(device)
    boxes = torch.cat((corner, corner + 10 + 10 * torch.rand(2, 150, 2, generator=draw, dtype=torch.float64).to(device)), -1)
    scores = torch.rand(2, 150, generator=draw, dtype=torch.float64).to(device)
    kept, order = multi_threshold_nms(boxes, scores)
    assert ((order > 0) == kept).all()
    for i in range(2):
        ranked = boxes[i, order[i].argsort(descending=True)][: int(kept[i].sum())]
        overlap = box_iou(ranked[:, None], ranked).fill_diagonal_(0)
        assert overlap.max() <= 0.95
        for count, threshold in ((10, 0.55), (20, 1.0)):
            assert overlap[:count, :count].max() <= threshold
        assert overlap[:20, :20].max() < overlap[:40, :40].max() <= overlap.max()


def test_seeds_are_inside_and_small_ones_are_many(device: str) -> None:
    for width, height in ((640, 480), (128, 300), (40, 20), (8, 8)):
        seeds = AttractioNet.seeds(width, height).to(device)
        assert (seeds >= 0).all()
        assert (seeds[:, 2::2] <= width).all()
        assert (seeds[:, 3::2] <= height).all()
        assert len(seeds) <= 10000
        middle = (seeds[:, :2] + seeds[:, 2:]).mean(0) / 2
        torch.testing.assert_close(middle, torch.tensor([width / 2, height / 2], device=device), rtol=0, atol=1e-2)
    side = (AttractioNet.seeds(640, 480)[:, 2:] - AttractioNet.seeds(640, 480)[:, :2]).prod(1)
    for small, large in pairwise((16 * 16, 50 * 50, 128 * 128, 384 * 384)):
        assert (side == small).sum() > (side == large).sum() > 0
