"""Laws of learning to rank proposals."""

import math

import torch
from torch import Tensor

from reference_impl.heads import LearningToRank, pairwise_ranking_loss
from reference_impl.ops.boxes import box_iou
from reference_impl.ops.nms import nms


def candidates(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, IoUs and ground truths of 25 candidates in each of three images."""
    generator = torch.Generator().manual_seed(0)
    score, iou = (torch.rand(3, 25, generator=generator, dtype=torch.float64) for _ in range(2))
    return 4 * score.to(device), iou.to(device), torch.randint(0, 4, (3, 25), generator=generator).to(device)


def slow_loss(score: list[float], iou: list[float], truth: list[int], levels: int, hardest: int) -> float:
    """The definition with lists."""
    level = [min(int(x * levels), levels - 1) for x in iou]
    pairs = [(i, j) for i in range(len(iou)) for j in range(len(iou)) if truth[i] == truth[j] and level[i] > level[j]]
    losses = sorted((math.log1p(math.exp(score[j] - score[i])) for i, j in pairs), reverse=True)[:hardest]
    return sum(losses) / len(losses)


def test_it_is_the_definition(device: str) -> None:
    score, iou, truth = candidates(device)
    for levels, hardest in ((10, 256), (4, 8), (20, 1)):
        found = pairwise_ranking_loss(score, iou, truth, levels=levels, hardest=hardest)
        expected = [slow_loss(score[i].tolist(), iou[i].tolist(), truth[i].tolist(), levels, hardest) for i in range(3)]
        torch.testing.assert_close(found.tolist(), expected)


def test_only_differences_of_scores_matter(device: str) -> None:
    score, iou, truth = candidates(device)
    torch.testing.assert_close(pairwise_ranking_loss(score + 3, iou, truth), pairwise_ranking_loss(score, iou, truth))
    score.requires_grad_()
    (gradient,) = torch.autograd.grad(pairwise_ranking_loss(score, iou, truth).sum(), score)
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(3, dtype=torch.float64, device=device), atol=1e-12, rtol=0)


def test_a_right_order_costs_the_less_the_wider_it_is(device: str) -> None:
    _, iou, truth = candidates(device)
    losses = torch.stack([pairwise_ranking_loss(scale * iou, iou, truth) for scale in (-10.0, 0.0, 10.0, 100.0, 1000.0)])
    assert (losses.diff(dim=0) < 0).all()
    torch.testing.assert_close(losses[1], torch.full_like(losses[1], math.log(2)))
    assert losses[-1].max() < 1e-3


def test_training_makes_suppression_keep_the_best_box(device: str) -> None:
    """Ten shifted boxes of each of three objects, whose features tell the shift: what is kept improves on the order of the class scores."""
    torch.manual_seed(0)
    corner = torch.arange(3, device=device)[:, None, None] * 200.0
    truth_boxes = torch.cat((corner, corner, corner + 40, corner + 40), -1)
    shift = torch.rand(3, 10, 4, device=device) * 16 - 8
    boxes = (truth_boxes + shift).reshape(1, 30, 4)
    iou = box_iou(truth_boxes.expand(3, 10, 4).reshape(1, 30, 4), boxes)
    truth = torch.arange(3, device=device).repeat_interleave(10)[None]
    pooled = torch.cat((shift, shift.abs()), -1).reshape(1, 30, 8) / 8
    head = LearningToRank(8, hidden=16).to(device)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.02)
    losses = []
    for _ in range(80):
        loss = pairwise_ranking_loss(head(pooled), iou, truth, levels=40, hardest=60).mean()
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[-1] < 0.5 * losses[0]

    by_class = nms(boxes, torch.rand(1, 30, device=device), limit=3, threshold=0.3)
    by_rank = nms(boxes, head(pooled).detach(), limit=3, threshold=0.3)
    assert by_class.sum() == by_rank.sum() == 3
    assert iou[by_rank].mean() > iou[by_class].mean()
    assert (iou[by_rank].sort().values > iou.reshape(3, 10).amax(-1).sort().values - 0.05).all()
