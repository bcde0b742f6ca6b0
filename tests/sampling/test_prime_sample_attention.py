"""Laws of prime sample attention."""

from typing import Any

import torch
from torch import Tensor

from reference_impl.ops.boxes import box_iou
from reference_impl.sampling import nms_clusters, prime_sample_attention, score_hlr

CLASSES = 4


def boxes(device: str) -> dict[str, Tensor]:
    """Three sets of 80 boxes; every ground truth has one class."""
    generator = torch.Generator().manual_seed(0)
    role = torch.randint(0, 3, (3, 80), generator=generator)
    truth = torch.randint(0, 12, (3, 80), generator=generator)
    found: dict[str, Any] = {
        "iou": torch.rand(3, 80, generator=generator, dtype=torch.float64),
        "score": torch.rand(3, 80, generator=generator, dtype=torch.float64),
        "labels": torch.where(role == 0, truth % CLASSES, CLASSES),
        "truth": truth,
        "positive": role == 0,
        "negative": role == 1,
    }
    return {name: x.to(device) for name, x in found.items()}


def slow_weights(iou: list[float], label: list[int], truth: list[int], n_max: int) -> list[float]:
    """The definition with lists: best of each truth first, then by IoU; gamma 1, beta 0."""
    local = [sum(t == u and b > a for b, u in zip(iou, truth, strict=True)) for a, t in zip(iou, truth, strict=True)]
    key = [(r, -a) for r, a in zip(local, iou, strict=True)]
    rank = [sum(m == n and other < own for other, n in zip(key, label, strict=True)) for own, m in zip(key, label, strict=True)]
    return [(n_max - r) / n_max for r in rank]


def test_positives_are_weighted_as_by_the_definition(device: str) -> None:
    b = boxes(device)
    weight = prime_sample_attention(**b, gamma_positive=1.0)
    for i in range(3):
        at = b["positive"][i]
        largest = b["labels"][i][at].bincount().max().item()
        iou, label, truth = (b[name][i][at].tolist() for name in ("iou", "labels", "truth"))
        torch.testing.assert_close(weight[i][at].tolist(), slow_weights(iou, label, truth, int(largest)))


def test_the_best_box_of_every_object_comes_before_any_second_best(device: str) -> None:
    b = boxes(device)
    b["labels"] = torch.where(b["positive"], 0, CLASSES)
    weight = prime_sample_attention(**b)
    for i in range(3):
        at = b["positive"][i]
        best = torch.stack([at & (b["truth"][i] == t) for t in b["truth"][i][at].unique()])
        first = torch.where(best, b["iou"][i], -1).argmax(-1)
        assert weight[i][first].min() > weight[i][at].sort(descending=True).values[len(first)]


def test_negatives_alone_are_ranked_by_score(device: str) -> None:
    b = boxes(device)
    weight = prime_sample_attention(**b)
    for i in range(3):
        at = b["negative"][i]
        assert weight[i][at][b["score"][i][at].argsort(descending=True)].diff().max() < 0


def test_gamma_zero_and_beta_one_weigh_all_alike(device: str) -> None:
    b = boxes(device)
    used = (b["positive"] | b["negative"]).double()
    torch.testing.assert_close(prime_sample_attention(**b, gamma_positive=0.0, gamma_negative=0.0), used)
    torch.testing.assert_close(prime_sample_attention(**b, beta_positive=1.0, beta_negative=1.0), used)


def test_the_sum_of_the_loss_is_kept(device: str) -> None:
    b = boxes(device)
    loss = torch.rand(3, 80, dtype=torch.float64, device=device)
    weight = prime_sample_attention(**b, loss=loss)
    for role in ("positive", "negative"):
        torch.testing.assert_close((weight * loss * b[role]).sum(-1), (loss * b[role]).sum(-1))


def test_only_the_order_of_the_overlaps_matters(device: str) -> None:
    b = boxes(device)
    assert prime_sample_attention(**b).equal(prime_sample_attention(**b | {"iou": b["iou"] ** 2, "score": b["score"].sqrt()}))


def test_names_of_classes_objects_and_ignored_boxes_do_not_matter(device: str) -> None:
    b = boxes(device)
    ignored = ~(b["positive"] | b["negative"])
    other = {
        "labels": torch.where(b["positive"], CLASSES - 1 - b["labels"], -7),
        "truth": torch.where(b["positive"], 5 * b["truth"] + 3, -1),
        "iou": torch.where(ignored, 0.99, b["iou"]),
        "score": torch.where(ignored, 0.99, b["score"]),
    }
    assert prime_sample_attention(**b).equal(prime_sample_attention(**b | other))


def negatives(device: str) -> dict[str, Tensor]:
    """Three images with 60 predictions in a small window, most of them negatives, a third of these with a low score."""
    generator = torch.Generator().manual_seed(0)
    corner = 40 * torch.rand(3, 60, 2, generator=generator, dtype=torch.float64)
    size = 10 + 10 * torch.rand(3, 60, 2, generator=generator, dtype=torch.float64)
    score = torch.rand(3, 60, generator=generator, dtype=torch.float64)
    low = torch.rand(3, 60, generator=generator) < 0.3
    found = {
        "boxes": torch.cat((corner, corner + size), -1),
        "score": torch.where(low, 0.05 * score, score),
        "negative": torch.rand(3, 60, generator=generator) < 0.9,
    }
    return {name: x.to(device) for name, x in found.items()}


def slow_groups(boxes: Tensor, score: list[float], among: list[int]) -> dict[int, list[int]]:
    """The definition: the best box that is left takes all that it overlaps, in the order of their scores."""
    left, groups, iou = sorted(among, key=lambda i: -score[i]), {}, box_iou(boxes[:, None], boxes[None]).tolist()
    while left:
        best = left[0]
        groups[best] = [best, *(i for i in left[1:] if iou[best][i] > 0.5)]
        left = [i for i in left if i not in groups[best]]
    return groups


def test_clusters_are_those_of_suppression(device: str) -> None:
    b = negatives(device)
    cluster = nms_clusters(b["boxes"], b["score"], b["negative"])
    for i in range(3):
        among = b["negative"][i].nonzero()[:, 0].tolist()
        groups = slow_groups(b["boxes"][i], b["score"][i].tolist(), among)
        assert {j: best for best, members in groups.items() for j in members} == {j: cluster[i, j].item() for j in among}


def test_a_box_that_overlaps_by_the_threshold_and_no_more_is_alone(device: str) -> None:
    boxes = torch.tensor([[0.0, 0.0, 16.0, 16.0], [0.0, 0.0, 16.0, 8.0], [0.0, 0.0, 16.0, 9.0]], device=device)
    assert nms_clusters(boxes, torch.tensor([3.0, 2.0, 1.0], device=device)).tolist() == [0, 1, 0]


def test_draw_is_the_definition(device: str) -> None:
    """Clusters ranked inside, then across; the rest at random, with the least of the weights."""
    b = negatives(device)
    cluster = nms_clusters(b["boxes"], b["score"], b["negative"] & (b["score"] > 0.05))
    for number in (5, 20, 50, 60):
        weight = score_hlr(b["score"], cluster, b["negative"], torch.tensor([number] * 3, device=device))
        for i in range(3):
            score, among = b["score"][i].tolist(), b["negative"][i].nonzero()[:, 0].tolist()
            groups = slow_groups(b["boxes"][i], score, [j for j in among if score[j] > 0.05])
            place = {j: (r, -score[j]) for members in groups.values() for r, j in enumerate(members)}
            ranked, wanted = sorted(place, key=place.__getitem__), min(number, len(among))
            bound = max(wanted, len(ranked))
            expected = {j: ((bound - r) / bound) ** 0.5 for r, j in enumerate(ranked[:wanted])}
            drawn = weight[i].nonzero()[:, 0].tolist()
            assert len(drawn) == wanted
            rest = set(drawn) - expected.keys()
            assert rest <= set(among) - place.keys()
            for j in drawn:
                assert abs(weight[i, j].item() - expected.get(j, min(expected.values()))) < 1e-12


def test_few_clusters_are_enough_for_a_small_draw(device: str) -> None:
    b = negatives(device)
    count = torch.tensor([10, 10, 10], device=device)
    all_of_them, some = (nms_clusters(b["boxes"], b["score"], b["negative"], limit=limit) for limit in (60, 10))
    assert not all_of_them.equal(some)
    assert score_hlr(b["score"], all_of_them, b["negative"], count).equal(score_hlr(b["score"], some, b["negative"], count))


def test_the_draw_keeps_the_sum_of_the_loss(device: str) -> None:
    b = negatives(device)
    cluster = nms_clusters(b["boxes"], b["score"], b["negative"])
    loss, noise = (torch.rand(3, 60, dtype=torch.float64, device=device) for _ in range(2))
    count = torch.tensor([12, 40, 60], device=device)
    weight = score_hlr(b["score"], cluster, b["negative"], count, loss, noise)
    drawn = score_hlr(b["score"], cluster, b["negative"], count, noise=noise) > 0
    torch.testing.assert_close((weight * loss).sum(-1), (loss * drawn).sum(-1))


def test_those_without_a_rank_are_drawn_uniformly(device: str) -> None:
    """Six of ten alike negatives, many times: a chi-square test of how often each is drawn."""
    torch.manual_seed(0)
    trials = 2000
    score = torch.zeros(trials, 10, dtype=torch.float64, device=device)
    alone = torch.arange(10, device=device).expand(trials, 10)
    drawn = score_hlr(score, alone, torch.ones_like(alone, dtype=torch.bool), torch.full((trials,), 6, device=device))
    assert (drawn.sum(-1) == 6).all()
    expected = 0.6 * trials
    chi_square = ((drawn.sum(0) - expected) ** 2 / (expected * 0.4)).sum() * 0.9
    assert chi_square < 21.67, "the 0.99 quantile for nine degrees of freedom"
