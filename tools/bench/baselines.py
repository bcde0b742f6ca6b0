"""The methods as one writes them down without a thought for speed: one-hot targets, dense masks, loops. `python -m tools bench` compares.

Each has the arguments and the result of the implementation that it is named after, on one image.
"""

import math
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot, softplus
from torch.nn.functional import smooth_l1_loss as torch_smooth_l1

from reference_impl.ops.matching import BACKGROUND, IGNORED

Function = Callable[..., Any]


def _one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    return one_hot(labels, logits.shape[-1] + 1)[..., :-1].to(logits.dtype)


# Classification losses


def focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    target = _one_hot(labels, logits)
    p = logits.sigmoid()
    p_s = p * target + (1 - p) * (1 - target)
    alpha = 0.25 * target + 0.75 * (1 - target)
    entropy = binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (alpha * (1 - p_s) ** 2.0 * entropy).sum(-1)


def ghm_c(logits: Tensor, labels: Tensor) -> Tensor:
    target = _one_hot(labels, logits)
    weight = _weight_by_bins((logits.detach().sigmoid() - target).abs(), 30)
    return (weight * binary_cross_entropy_with_logits(logits, target, reduction="none")).sum(-1)


def _weight_by_bins(norm: Tensor, bins: int) -> Tensor:
    weight = torch.zeros_like(norm)
    for k in range(bins):
        inside = (norm >= k / bins) & ((norm < (k + 1) / bins) | (k == bins - 1))
        count = inside.sum().item()
        if count > 0:
            weight[inside] = norm.numel() / (bins * count)
    return weight


def quality_focal_loss(logits: Tensor, labels: Tensor, iou: Tensor) -> Tensor:
    target = _one_hot(labels, logits) * iou[:, None]
    entropy = binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (entropy * (target - logits.sigmoid()).abs() ** 2.0).sum(-1)


def distribution_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    left = target.long().clamp(max=logits.shape[-1] - 2)
    share = target - left
    return cross_entropy(logits, left, reduction="none") * (1 - share) + cross_entropy(logits, left + 1, reduction="none") * share


def equalization_loss(logits: Tensor, labels: Tensor, frequency: Tensor) -> Tensor:
    target = _one_hot(labels, logits)
    foreground = (labels < logits.shape[-1]).to(logits.dtype)[:, None]
    weight = 1 - foreground * (frequency < 0.00177).to(logits.dtype) * (1 - target)
    return (weight * binary_cross_entropy_with_logits(logits, target, reduction="none")).sum(-1)


def dr_loss(logits: Tensor, labels: Tensor) -> Tensor:
    target = _one_hot(labels, logits).bool()
    p = logits.sigmoid()
    high, low = p[target], p[~target]
    high = ((-high / 1.0).softmax(0) * high).sum()
    low = ((low / (0.1 / math.log(3.5))).softmax(0) * low).sum()
    return softplus(6.0 * (low - high + 0.5)) * (4.0 / 6.0)


def gaussian_focal_loss(logits: Tensor, heat: Tensor) -> Tensor:
    p = logits.sigmoid()
    corner = (heat == 1).to(p.dtype)
    away = (1 - corner) * (1 - heat) ** 4 * p**2 * binary_cross_entropy_with_logits(logits, torch.zeros_like(p), reduction="none")
    return corner * (1 - p) ** 2 * binary_cross_entropy_with_logits(logits, torch.ones_like(p), reduction="none") + away


def offset_bin_classification(logits: Tensor, target: Tensor) -> Tensor:
    bins = logits.shape[-1]
    return cross_entropy(logits, ((target + 1) / 2 * bins).long().clamp(0, bins - 1), reduction="none")


def equalization_loss_v2(logits: Tensor, labels: Tensor, positive_gradient: Tensor, negative_gradient: Tensor) -> Tensor:
    target = _one_hot(labels, logits)
    push = (12.0 * (positive_gradient / negative_gradient - 0.8)).sigmoid()
    weight = target * (1 + 4.0 * (1 - push)) + (1 - target) * push
    return (weight * binary_cross_entropy_with_logits(logits, target, reduction="none")).sum(-1)


def concurrent_softmax(logits: Tensor, has_label: Tensor, concurrence: Tensor) -> Tensor:
    label = has_label.to(logits.dtype)
    e = (logits - logits.max(-1, keepdim=True).values).exp()
    competition = (1 - concurrence) * (1 - torch.eye(len(concurrence)))
    rivals = ((1 - label) * e) @ competition.T
    return (label * -(e / (e + rivals)).log()).sum(-1)


def balanced_group_softmax(logits: Tensor, others: Tensor, background: Tensor, labels: Tensor, group: Tensor, noise: Tensor) -> Tensor:
    total = cross_entropy(background, (labels < logits.shape[-1]).long(), reduction="none") / len(labels)
    for k in range(others.shape[-1]):
        members = (group == k).nonzero()[:, 0]
        place = torch.full((logits.shape[-1] + 1,), len(members))
        place[members] = torch.arange(len(members))
        target = place[labels]
        inside = target < len(members)
        weight = inside.to(logits.dtype) + _drawn(noise[:, k], ~inside, 8 * int(inside.sum()))
        entropy = cross_entropy(torch.cat((logits[:, members], others[:, k : k + 1]), -1), target, reduction="none")
        total = total + weight * entropy / weight.sum().clamp(min=1)
    return total


def ghm_weight(p_s: Tensor) -> Tensor:
    norm = 1 - p_s.detach()
    half = 1 / 60
    count = torch.stack([((norm - g).abs() <= half + 2e-7).sum() for g in norm])
    return len(norm) * ((norm + half).clamp(max=1) - (norm - half).clamp(min=0)) / count


def lrp_error(iou: Tensor, matched: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    hits = iou[matched & (iou >= 0.5)]
    found, alarms, missed = len(hits), len(iou) - len(hits), max(int(count) - len(hits), 0)
    misfit = (1 - hits).sum()
    error = (misfit / 0.5 + alarms + missed) / (found + alarms + missed)
    return error, misfit / max(found, 1), torch.tensor(alarms / (found + alarms)), torch.tensor(missed / (found + missed))


# Ranking losses, one positive after the other


def _step(difference: Tensor, delta: float) -> Tensor:
    return (difference / (2 * delta) + 0.5).clamp(0, 1)


def _with_update(logits: Tensor, value: Tensor, update: Tensor) -> Tensor:
    """The value of a loss whose gradient is an update that is no derivative."""
    return value + (update * (logits - logits.detach()).flatten()).sum()


def ap_loss(logits: Tensor, labels: Tensor) -> Tensor:
    score, positive = logits.detach().flatten(), _one_hot(labels, logits).bool().flatten()
    places, others = positive.nonzero()[:, 0], ~positive
    update = torch.zeros_like(score)
    best, total = 0.0, torch.zeros((), dtype=score.dtype)
    for i in places[score[places].argsort()]:
        above = _step(score - score[i], 1.0)
        above[i] = 1
        push = above * others / above.sum()
        precision = 1 - push.sum()
        if precision < best:
            push = push * (1 - best) / (1 - precision)
        best = max(best, float(precision))
        update += push
        update[i] -= push.sum()
        total += push.sum()
    return _with_update(logits, total / len(places), update / len(places))


def alrp_loss(logits: Tensor, labels: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    score, positive = logits.detach().flatten(), _one_hot(labels, logits).bool().flatten()
    places, others = positive.nonzero()[:, 0], ~positive
    own, error = score[places], loss[labels < logits.shape[-1]]
    update, weight = torch.zeros_like(score), torch.zeros_like(own)
    classification = torch.zeros((), dtype=score.dtype)
    for k, i in enumerate(places):
        above, better = _step(score - score[i], 1.0) * others, _step(own - score[i], 1.0)
        better[k] = 0
        false = above.sum()
        rank = false + 1 + better.sum()
        classification += false / rank
        weight += (own >= score[i]) / rank
        if false > 1e-5:
            pull = (false + (better * error.detach()).sum()) / rank
            update += pull * above / false
            update[i] -= pull
    return _with_update(logits, classification / len(places), update / len(places)), (weight * error).sum() / len(places)


def rank_sort_loss(logits: Tensor, labels: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
    score, positive = logits.detach().flatten(), _one_hot(labels, logits).bool().flatten()
    places, others = positive.nonzero()[:, 0], ~positive
    own, quality = score[places], iou[labels < logits.shape[-1]]
    rank_update, sort_update = torch.zeros_like(score), torch.zeros_like(own)
    ranking, sorting = torch.zeros((), dtype=score.dtype), torch.zeros((), dtype=score.dtype)
    for k, i in enumerate(places):
        above, higher = _step(score - score[i], 0.5) * others, _step(own - score[i], 0.5)
        worse, better = higher * (quality < quality[k]), higher * (quality >= quality[k])
        false = above.sum()
        if false > 1e-10:
            error = false / (false + higher.sum())
            ranking += error
            rank_update += error * above / false
            rank_update[i] -= error
        if worse.sum() > 1e-10:
            misfit = 1 - quality
            error = (higher * misfit).sum() / higher.sum() - (better * misfit).sum() / better.sum()
            sorting += error
            sort_update += error * worse / worse.sum()
            sort_update[k] -= error
    update = torch.zeros_like(score)
    update[places] = sort_update
    losses = (ranking, rank_update), (sorting, update)
    first, second = (_with_update(logits, value / len(places), u / len(places)) for value, u in losses)
    return first, second


def direct_ap_loss(logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """The best ranking with the loss by dynamic programming over how many of the sorted positives and negatives are placed."""
    epsilon = 0.1
    up, down = (logits[mask].sort(descending=True).values for mask in (positive, negative))
    p, n = len(up), len(down)
    scores = [x.detach().double() / (p * n) for x in (up, down)]
    ups, downs = (x.tolist() for x in scores)
    sum_of_ups, sum_of_downs = ([0.0, *x.cumsum(0).tolist()] for x in scores)
    best = [[-math.inf] * (n + 1) for _ in range(p + 1)]
    last_is_positive = [[False] * (n + 1) for _ in range(p + 1)]
    for i in range(p + 1):
        for j in range(n + 1):
            if i == j == 0:
                best[0][0] = 0.0
            if j > 0:
                best[i][j] = best[i][j - 1] + sum_of_ups[i] - i * downs[j - 1]
            if i > 0:
                placed = best[i - 1][j] + sum_of_downs[j] - j * ups[i - 1] - epsilon * i / (i + j) / p
                if placed > best[i][j]:
                    best[i][j], last_is_positive[i][j] = placed, True
    order = torch.ones(p, n)
    precision, i, j = 0.0, p, n
    while i > 0 or j > 0:
        if last_is_positive[i][j]:
            order[i - 1, :j] = -1
            precision += i / (i + j) / p
            i -= 1
        else:
            j -= 1
    margin = up[:, None] - down
    return ((order * margin).sum() - margin.abs().sum()) / (p * n) / epsilon + 1 - precision


# Regression losses


def l1_loss(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target).abs()


def l2_loss(pred: Tensor, target: Tensor) -> Tensor:
    return (pred - target) ** 2


def smooth_l1_loss(pred: Tensor, target: Tensor) -> Tensor:
    error = (pred - target).abs()
    return torch.where(error < 1, 0.5 * error**2, error - 0.5)


def huber_loss(pred: Tensor, target: Tensor) -> Tensor:
    return smooth_l1_loss(pred, target)


def balanced_l1_loss(pred: Tensor, target: Tensor) -> Tensor:
    alpha, gamma = 0.5, 1.5
    error = (pred - target).abs()
    b = math.exp(gamma / alpha) - 1
    inside = alpha / b * (b * error + 1) * torch.log(b * error + 1) - alpha * error
    return torch.where(error < 1, inside, gamma * error + gamma / b - alpha)


def dynamic_smooth_l1_loss(pred: Tensor, target: Tensor, beta: Tensor) -> Tensor:
    error = (pred - target).abs()
    return torch.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta)


def kl_loss(pred: Tensor, target: Tensor, log_variance: Tensor) -> Tensor:
    error = (pred - target).abs()
    return torch.exp(-log_variance) * torch.where(error < 1, 0.5 * error**2, error - 0.5) + 0.5 * log_variance


def gaussian_yolo_loss(pred: Tensor, target: Tensor, deviation: Tensor) -> Tensor:
    height = torch.exp(-(((pred - target) / deviation) ** 2) / 2) / (math.sqrt(2 * math.pi) * (deviation + 0.3))
    return -torch.log(height + 1e-9) / 2


def ghm_r(pred: Tensor, target: Tensor) -> Tensor:
    d = pred - target
    root = (d * d + 0.02**2).sqrt()
    return _weight_by_bins((d / root).abs().detach(), 10) * (root - 0.02)


def _union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    size = (torch.min(a[..., 2:], b[..., 2:]) - torch.max(a[..., :2], b[..., :2])).clamp(min=0)
    shared = size[..., 0] * size[..., 1]
    areas = [(x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b)]
    return shared, areas[0] + areas[1] - shared


def _iou(a: Tensor, b: Tensor) -> Tensor:
    shared, union = _union(a, b)
    return shared / union.clamp(min=1e-7)


def _enclosing_size(a: Tensor, b: Tensor) -> Tensor:
    return torch.max(a[..., 2:], b[..., 2:]) - torch.min(a[..., :2], b[..., :2])


def iou_loss(pred: Tensor, target: Tensor) -> Tensor:
    return -_iou(pred, target).clamp(min=1e-6).log()


def giou_loss(pred: Tensor, target: Tensor) -> Tensor:
    shared, union = _union(pred, target)
    size = _enclosing_size(pred, target)
    enclosing = size[..., 0] * size[..., 1]
    return 1 - (shared / union.clamp(min=1e-7) - (enclosing - union) / enclosing.clamp(min=1e-7))


def diou_loss(pred: Tensor, target: Tensor) -> Tensor:
    between = (pred[..., :2] + pred[..., 2:]) / 2 - (target[..., :2] + target[..., 2:]) / 2
    diagonal = (_enclosing_size(pred, target) ** 2).sum(-1)
    return 1 - _iou(pred, target) + (between**2).sum(-1) / diagonal.clamp(min=1e-7)


def ciou_loss(pred: Tensor, target: Tensor) -> Tensor:
    angle = [torch.atan((x[..., 2] - x[..., 0]) / (x[..., 3] - x[..., 1]).clamp(min=1e-7)) for x in (pred, target)]
    v = 4 / math.pi**2 * (angle[0] - angle[1]) ** 2
    with torch.no_grad():
        alpha = v / (1 - _iou(pred, target) + v).clamp(min=1e-7)
    return diou_loss(pred, target) + alpha * v


def bounded_iou_loss(pred: Tensor, target: Tensor) -> Tensor:
    size, pred_size = target[..., 2:] - target[..., :2], pred[..., 2:] - pred[..., :2]
    gap = 2 * ((pred[..., :2] + pred[..., 2:]) / 2 - (target[..., :2] + target[..., 2:]) / 2).abs()
    position = ((size - gap) / (size + gap)).clamp(min=0)
    extent = torch.min(size / pred_size, pred_size / size)
    return (1 - torch.cat([position, extent], -1)) ** 2


def carl_loss(pred: Tensor, target: Tensor, p_s: Tensor, positive: Tensor) -> Tensor:
    value = 0.8 * p_s[positive] + 0.2
    result = torch.zeros_like(p_s)
    result[positive] = value / value.sum() * len(value) * smooth_l1_loss(pred, target).sum(-1)[positive]
    return result


# Sampling


def _drawn(noise: Tensor, candidates: Tensor, count: int) -> Tensor:
    index = candidates.nonzero()[:, 0]
    drawn = torch.zeros_like(noise)
    drawn[index[noise[index].argsort(descending=True)[:count]]] = 1
    return drawn


def random_sampling(positive: Tensor, negative: Tensor, noise: Tensor) -> Tensor:
    positives = _drawn(noise, positive, 128)
    return positives + _drawn(noise, negative, 256 - int(positives.sum()))


def iou_lower_bound(iou: Tensor, negative: Tensor, noise: Tensor) -> Tensor:
    return _drawn(noise, negative & (iou >= 0.1) & (iou < 0.5), 48)


def hard_negative_mining(loss: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    rank = loss.masked_fill(~negative, -1).argsort(descending=True, stable=True).argsort()
    return (positive | (negative & (rank < 3 * positive.sum()))).to(loss.dtype)


def ohem(loss: Tensor, valid: Tensor) -> Tensor:
    rank = loss.masked_fill(~valid, -1).argsort(descending=True, stable=True).argsort()
    return (valid & (rank < 64)).to(loss.dtype)


def negative_anchor_filtering(p_s: Tensor, loss: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    return hard_negative_mining(loss, positive, negative & (p_s <= 0.99))


def objectness_prior(objectness: Tensor, positive: Tensor, negative: Tensor, noise: Tensor) -> Tensor:
    positive = positive & (objectness >= 0.03)
    return positive + _drawn(noise, negative & (objectness >= 0.03), 3 * int(positive.sum()) or 256)


def bootstrapping(score: Tensor, negative: Tensor, noise: Tensor) -> Tensor:
    return _drawn(noise, negative & (score > 0.5), 250)


def hard_example_retraining(logits: Tensor, negative: Tensor, noise: Tensor) -> Tensor:
    return _drawn(noise, negative & (logits > 0), 109_955)


def example_selection(score: Tensor, negative: Tensor) -> Tensor:
    return (negative & (score > 0.5)).to(score.dtype)


def constant_weighting(loss: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    weight = torch.zeros_like(loss)
    weight[positive], weight[negative] = 1.0, 0.5
    return weight


def iou_balanced_sampling(iou: Tensor, negative: Tensor, noise: Tensor, fill_noise: Tensor) -> Tensor:
    lowest, highest = iou[negative].min(), iou[negative].max()
    drawn = torch.zeros_like(iou)
    for k in range(3):
        share = (iou - lowest) / (highest - lowest) * 3
        inside = negative & (share >= k) & ((share < k + 1) | (k == 2))
        drawn += _drawn(noise, inside, 128)
    return drawn + _drawn(fill_noise, negative & (drawn == 0), 384 - int(drawn.sum()))


def overlap_sampling(overlap: Tensor, negative: Tensor, noise: Tensor) -> Tensor:
    near = overlap > (overlap[negative].min() + overlap[negative].max()) / 2
    key = torch.zeros_like(noise)
    for half in (near, ~near):
        key[half] = int((negative & half).sum()) * noise[half].log()
    return _drawn(key, negative, 384)


def online_foreground_balanced(labels: Tensor, positive: Tensor, noise: Tensor) -> Tensor:
    key = torch.zeros_like(noise)
    for label in set(labels[positive].tolist()):
        same = positive & (labels == label)
        key[same] = int(same.sum()) * noise[same].log()
    return _drawn(key, positive, 128)


def hard_negative_cache(logits: Tensor, negative: Tensor) -> Tensor:
    """The first round, which finds no cache."""
    cache = torch.zeros_like(logits)
    room = 24_000
    for i in (negative & (logits >= -1.002)).nonzero()[:, 0]:
        if room == 0:
            break
        cache[i] = 1
        room -= 1
    return cache


def prime_sample_attention(iou: Tensor, score: Tensor, labels: Tensor, truth: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    weight = torch.zeros_like(iou)
    classes = set(labels[positive].tolist())
    largest = max((int((positive & (labels == label)).sum()) for label in classes), default=0)
    for label in classes:
        mine = (positive & (labels == label)).nonzero()[:, 0]
        local = torch.zeros_like(mine)
        for t in set(truth[mine].tolist()):
            same = truth[mine] == t
            local[same] = iou[mine[same]].argsort(descending=True).argsort()
        rank = (local - iou[mine]).argsort().argsort()
        weight[mine] = ((largest - rank) / largest) ** 2.0
    rank = score[negative].argsort(descending=True).argsort()
    weight[negative] = ((len(rank) - rank) / len(rank)) ** 0.5
    return weight


def unified_sample_weighting(log_variance: Tensor, valid: Tensor) -> Tensor:
    return (-log_variance.clamp(-2, 2)).exp() * valid


def soft_balance_sampling(has_label: Tensor, progress: Tensor) -> Tensor:
    if progress < 0.5:
        return torch.full((len(has_label),), 1 / len(has_label))
    shows = has_label.float()
    count = shows.sum(0)
    share = count**0.3 / (count**0.3).sum()
    return (shows * share / count.clamp(min=1)).sum(-1)


def proposal_selection(boxes: Tensor, objectness: Tensor) -> Tensor:
    first = objectness.argsort(descending=True)[:12_000]
    kept = torch.zeros_like(objectness)
    kept[first[_greedy(boxes[first], 2_000, 0.7)]] = 1
    return kept


def snip(boxes: Tensor, size_range: Tensor) -> Tensor:
    size = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return ((size >= size_range[0]) & (size <= size_range[1])).to(boxes.dtype)


def sniper(boxes: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    starts = [min(32 * i, 2000 - 512) for i in range(48)]
    windows = torch.tensor([[x, y, x + 512, y + 512] for y in starts for x in starts], dtype=boxes.dtype)
    inside = (windows[:, None, :2] <= boxes[:, :2]).all(-1) & (boxes[:, 2:] <= windows[:, None, 2:]).all(-1)
    chips, found = torch.zeros_like(boxes), torch.zeros(len(boxes), dtype=torch.bool)
    left = torch.ones_like(found)
    for turn in range(len(boxes)):
        count = (inside & left).sum(-1)
        if count.max() == 0:
            break
        best = (count == count.max()).nonzero()[:, 0]
        chosen = best[int(noise[turn].double() * len(best))]
        chips[turn], found[turn] = windows[chosen], True
        left = left & ~inside[chosen]
    return chips, found


# Assignment


def free_anchor(anchors: Tensor, logits: Tensor, deltas: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    unit = torch.tensor([0.1, 0.1, 0.2, 0.2])
    p = logits.sigmoid()
    size, center = anchors[:, 2:] - anchors[:, :2], (anchors[:, :2] + anchors[:, 2:]) / 2
    moved_center = center + (deltas.detach() * unit)[:, :2] * size
    moved_size = size * (deltas.detach() * unit)[:, 2:].clamp(max=math.log(1000 / 16)).exp()
    moved = torch.cat((moved_center - moved_size / 2, moved_center + moved_size / 2), -1)
    positive, localised = [], torch.zeros_like(logits)
    for box, label in zip(boxes, labels, strict=True):
        bag = _iou(box, anchors).topk(min(50, len(anchors))).indices
        offset = ((box[:2] + box[2:]) / 2 - center[bag]) / size[bag]
        target = torch.cat((offset, ((box[2:] - box[:2]) / size[bag]).log()), -1) / unit
        error = torch_smooth_l1(deltas[bag], target, reduction="none", beta=0.11).sum(-1)
        x = p[bag, label] * torch.exp(-0.75 * error)
        weight = 1 / (1 - x).clamp(min=1e-12)
        positive.append(-0.5 * ((weight * x).sum() / weight.sum()).log())
        overlap = _iou(box, moved)
        if overlap.max() > 0.6:
            share = (overlap - 0.6).clamp(min=0) / (overlap.max() - 0.6)
            localised[:, label] = torch.max(localised[:, label], share)
    q = (1 - localised) * p
    return torch.stack(positive), 0.5 * (q**2.0 * -(1 - q).log()).sum(-1)


def dynamic_label_assignment(proposals: Tensor, boxes: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    highest, truth = _iou(proposals[:, None], boxes).max(-1)
    return torch.where((highest >= threshold) & (highest > 0), truth, BACKGROUND), highest


# Shared parts


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    return _iou(a, b)


def match(anchors: Tensor, boxes: Tensor) -> Tensor:
    iou = _iou(boxes[:, None, :], anchors[None, :, :])
    highest, truth = iou.max(0)
    labels = torch.where(highest < 0.4, BACKGROUND, torch.where(highest < 0.5, IGNORED, truth))
    for row in iou:
        if row.max() > 0:
            best = row == row.max()
            labels[best] = truth[best]
    return labels


def nms(boxes: Tensor, scores: Tensor, limit: int) -> Tensor:
    order = scores.argsort(descending=True)
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept[order[_greedy(boxes[order], limit, 0.5)]] = True
    return kept


def _greedy(boxes: Tensor, limit: int, threshold: float) -> list[int]:
    """Which of the boxes, best first, are kept."""
    kept: list[int] = []
    left = torch.arange(len(boxes))
    while len(left) and len(kept) < limit:
        kept.append(int(left[0]))
        left = left[1:][_iou(boxes[left[0]], boxes[left[1:]]) <= threshold]
    return kept


def soft_nms(boxes: Tensor, scores: Tensor, limit: int) -> Tensor:
    boxes, scores, kept = boxes.detach(), scores.clone(), torch.zeros_like(scores)
    left = torch.arange(len(boxes))
    while len(left) and limit:
        best = left[scores[left].argmax()]
        kept[best] = scores[best]
        left = left[left != best]
        scores[left] *= torch.exp(-(_iou(boxes[best], boxes[left]) ** 2) / 0.5)
        left = left[scores[left] >= 0.001]
        limit -= 1
    return kept


def _interpolated(x: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """Maps `[c h w]` between their cells, zero outside."""
    height, width = x.shape[-2:]
    total = torch.zeros(())
    for i in (row.floor(), row.floor() + 1):
        for j in (column.floor(), column.floor() + 1):
            inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
            share = (1 - (row - i).abs()) * (1 - (column - j).abs()) * inside
            total = total + x[:, i.long().clamp(0, height - 1), j.long().clamp(0, width - 1)] * share
    return total


def roi_align(features: Tensor, boxes: Tensor, scale: float) -> Tensor:
    boxes = boxes.detach()[0]
    start, length = boxes[:, :2] * scale - 0.5, (boxes[:, 2:] - boxes[:, :2]) * scale
    at = start[..., None] + length[..., None] * (torch.arange(14) + 0.5) / 14
    last = torch.tensor(features.shape[:1:-1])[:, None] - 1
    inside = (at >= -1) & (at <= last + 1)
    at = torch.min(at.clamp(min=0), last.to(at.dtype))
    row, column = at[:, 1, :, None].expand(-1, -1, 14), at[:, 0, None, :].expand(-1, 14, -1)
    found = _interpolated(features[0], row, column) * (inside[:, 1, :, None] & inside[:, 0, None, :])
    return found.reshape(*found.shape[:2], 7, 2, 7, 2).mean((3, 5)).movedim(0, 1)[None]


def precise_roi_pool(features: Tensor, boxes: Tensor, scale: float) -> Tensor:
    edge = boxes[0, :, None, :2] + (boxes[0, :, None, 2:] - boxes[0, :, None, :2]) * (torch.arange(8) / 7)[:, None]
    column, row = (_integrals_of_hats(edge[..., axis] * scale, features.shape[-1 - axis]) for axis in (0, 1))
    area = ((boxes[0, :, 2] - boxes[0, :, 0]) * (boxes[0, :, 3] - boxes[0, :, 1])) * scale**2 / 49
    return (torch.einsum("kih,chw,kjw->kcij", row, features[0], column) / area[:, None, None, None])[None]


def _integrals_of_hats(edge: Tensor, cells: int) -> Tensor:
    """The integral of `max(0, 1 - |x - i|)` between neighbouring edges, for each cell i."""
    t = (edge[..., None] - torch.arange(cells)).clamp(-1, 1)
    return torch.where(t < 0, (1 + t) ** 2 / 2, 1 - (1 - t) ** 2 / 2).diff(dim=-2)


def deformable_conv(x: Tensor, offsets: Tensor, weight: Tensor, padding: int) -> Tensor:
    height, width = offsets.shape[-2:]
    down, right = torch.arange(height)[:, None], torch.arange(width)
    total = torch.zeros(())
    for tap in range(9):
        row = down + tap // 3 - padding + offsets[0, 2 * tap]
        column = right + tap % 3 - padding + offsets[0, 2 * tap + 1]
        total = total + torch.einsum("oc,chw->ohw", weight[:, :, tap // 3, tap % 3], _interpolated(x[0], row, column))
    return total[None]


BASELINES: dict[str, Function] = {
    **{
        f"losses.{f.__name__}": f
        for f in (
            *(alrp_loss, ap_loss, balanced_group_softmax, balanced_l1_loss, bounded_iou_loss, carl_loss, ciou_loss, concurrent_softmax),
            *(diou_loss, direct_ap_loss, distribution_focal_loss, dr_loss, dynamic_smooth_l1_loss, equalization_loss),
            *(equalization_loss_v2, focal_loss, gaussian_focal_loss, gaussian_yolo_loss, ghm_c, ghm_r, giou_loss, huber_loss, iou_loss),
            *(kl_loss, l1_loss, l2_loss, lrp_error, offset_bin_classification, quality_focal_loss, rank_sort_loss, smooth_l1_loss),
        )
    },
    **{
        f"sampling.{f.__name__}": f
        for f in (
            *(bootstrapping, constant_weighting, example_selection, hard_example_retraining, hard_negative_cache, hard_negative_mining),
            *(iou_balanced_sampling, iou_lower_bound, negative_anchor_filtering, objectness_prior, ohem, online_foreground_balanced),
            *(
                overlap_sampling,
                prime_sample_attention,
                proposal_selection,
                random_sampling,
                snip,
                sniper,
                soft_balance_sampling,
                unified_sample_weighting,
            ),
        )
    },
    **{f"assignment.{f.__name__}": f for f in (dynamic_label_assignment, free_anchor)},
    "losses.ghm_c.ghm_weight": ghm_weight,
    "ops.boxes.box_iou": box_iou,
    "ops.deformable.deformable_conv": deformable_conv,
    "ops.matching.match": match,
    "ops.nms.nms": nms,
    "ops.soft_nms.soft_nms": soft_nms,
    "ops.roi_align": roi_align,
    "ops.roi_align.precise_roi_pool": precise_roi_pool,
}


# Public implementations, where they can be imported


def peers() -> dict[str, tuple[str, Function]]:
    """For each id the name of a package and its function with our arguments; what is a compiled kernel, where that can be loaded."""
    try:
        ops = import_module("torchvision.ops")
    except (ImportError, RuntimeError, AttributeError):
        return {}
    return {id: ("torchvision", function) for id, function in _torchvision(ops)}


def _torchvision(ops: Any) -> Iterable[tuple[str, Function]]:
    def focal(logits: Tensor, labels: Tensor, target: Tensor) -> Any:
        return ops.sigmoid_focal_loss(logits, target).sum(-1)

    yield "losses.focal_loss", _with_target(focal)
    yield "losses.giou_loss", lambda pred, target: ops.generalized_box_iou_loss(pred, target)
    yield "losses.diou_loss", lambda pred, target: ops.distance_box_iou_loss(pred, target)
    yield "losses.ciou_loss", lambda pred, target: ops.complete_box_iou_loss(pred, target)
    yield "ops.boxes.box_iou", lambda a, b: ops.box_iou(a.flatten(0, -2), b.flatten(0, -2))
    if hasattr(torch.ops.torchvision, "roi_align"):
        yield (
            "ops.roi_align",
            lambda features, boxes, scale: ops.roi_align(features, list(boxes), 7, scale, 2, aligned=True).unflatten(0, boxes.shape[:2]),
        )
        yield "ops.deformable.deformable_conv", lambda x, offsets, weight, padding: ops.deform_conv2d(x, offsets, weight, padding=padding)


def _with_target(function: Function) -> Function:
    """A peer that wants a one-hot target gets it for nothing: it is made at the first call."""
    targets: dict[int, Tensor] = {}

    def wrapper(logits: Tensor, labels: Tensor) -> Any:
        if id(labels) not in targets:
            targets[id(labels)] = _one_hot(labels, logits)
        return function(logits, labels, targets[id(labels)])

    return wrapper
