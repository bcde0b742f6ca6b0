"""FreeAnchor: Zhang, Wan, Liu, Ji and Ye, NeurIPS 2019."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid, smooth_l1_loss, softplus

from reference_impl.ops.boxes import box_iou, decode_deltas, encode_deltas
from reference_impl.ops.checked import checked
from reference_impl.ops.dense import focal_negatives, sum_over_classes
from reference_impl.ops.numerics import safe_log, widen

__all__ = ["free_anchor"]

LARGEST_SIZE_DELTA = math.log(1000 / 16)


@checked
def free_anchor(
    anchors: Float[Tensor, "*batch n 4"],
    logits: Float[Tensor, "*batch n c"],
    deltas: Float[Tensor, "*batch n 4"],
    boxes: Float[Tensor, "*batch m 4"],
    labels: Int[Tensor, "*batch m"],
    present: Bool[Tensor, "*batch m"] | None = None,
    *,
    bag: int = 50,
    threshold: float = 0.6,
    gamma: float = 2.0,
    alpha: float = 0.5,
    weight: float = 0.75,
    beta: float = 0.11,
    center_std: float = 0.1,
    size_std: float = 0.2,
) -> tuple[Float[Tensor, "*batch m"], Float[Tensor, "*batch n"]]:
    r"""Asks that one of the anchors near each ground truth classify and localise it, instead of telling each anchor what it is.

    $$ L_i^+ = -\alpha \ln \operatorname{Mean-max}_{j \in A_i} P^{cls}_{ij} P^{loc}_{ij}, \qquad
    \operatorname{Mean-max}(X) = \frac{\sum_j x_j / (1 - x_j)}{\sum_j 1 / (1 - x_j)} $$

    The bag $A_i$ holds the anchors with the highest IoU with ground truth $i$; $P^{cls}$ is the probability of its class and $P^{loc} =
    e^{-\beta L_{loc}}$, with smooth L1 summed over the four deltas. While all $x_j$ are small, Mean-max is their mean and the whole bag
    learns; where one nears 1, it is the maximum. For each anchor, to the degree that it is no positive:

    $$ L_j^- = (1 - \alpha) \sum_c -q_{jc}^\gamma \ln(1 - q_{jc}), \qquad q_{jc} = (1 - P_{jc})\,\sigma(x_{jc}), \qquad
    P_{jc} = \max_{i \in c} \frac{[\mathrm{IoU}(\hat b_j, \bar b_i) - t]_+}{\max_k \mathrm{IoU}(\hat b_k, \bar b_i) - t} $$

    $P_{jc}$ says how well the predicted box $\hat b_j$ localises an object of class $c$: 1 for an object's best box, 0 up to IoU $t$. It is
    a constant: no gradient passes through it, nor to anchors and ground truths. The authors divide the sum of the first loss by the
    number of ground truths in the batch, and that of the second by `bag` times this number. No anchor gets an index: which one a ground
    truth has is never decided.

    Args:
        anchors: absolute `(x1, y1, x2, y2)` in pixels.
        logits: $x$, one for each of $C$ classes.
        deltas: predicted $(\delta_x, \delta_y, \delta_w, \delta_h)$ relative to the anchors, divided by `center_std` and `size_std`.
        boxes: ground truths, absolute `(x1, y1, x2, y2)` in pixels.
        labels: their classes, 0 to $C - 1$; any other label makes a box padding.
        present: which of `boxes` are no padding; by default all.
        bag: number of anchors in a bag. Which of those with equal IoU complete it is not defined.
        threshold: $t$ in [0, 1), as a rule the one of NMS.
        gamma: focusing parameter $\gamma \ge 0$.
        alpha: share $\alpha$ of the first loss, in [0, 1].
        weight: $\beta \ge 0$ of smooth L1 in the localisation probability.
        beta: error $\beta_{smooth} \ge 0$ at which smooth L1 turns from quadratic to linear.
        center_std: unit $\sigma_{xy}$ of $\delta_x$ and $\delta_y$.
        size_std: unit $\sigma_{wh}$ of $\delta_w$ and $\delta_h$.

    Returns:
        One loss for each ground truth, 0 for padding, and one for each anchor, both >= 0.

    Raises:
        ValueError: the shapes do not fit together.
    """
    anchors, boxes, logits, deltas = widen(anchors.detach()), widen(boxes.detach()), widen(logits), widen(deltas)
    if anchors.shape[-2] == 0:
        return logits.new_zeros(labels.shape), logits.new_zeros(logits.shape[:-1])
    known = (labels >= 0) & (labels < logits.shape[-1])
    known, labels = known if present is None else known & present, labels.where(known, 0)
    one = deltas[..., :1, :2].detach()
    unit = torch.cat((torch.full_like(one, center_std), torch.full_like(one, size_std)), -1)

    near = _iou_of_pairs(boxes, anchors).topk(min(bag, anchors.shape[-2]), sorted=False).indices
    target = encode_deltas(boxes[..., :, None, :], _pick(anchors, near)) / unit[..., None, :]
    error = smooth_l1_loss(_pick(deltas, near), target, reduction="none", beta=beta).sum(-1)
    own = logits.flatten(-2).gather(-1, (near * logits.shape[-1] + labels[..., None]).flatten(-2)).view_as(error)
    positive = alpha * torch.where(known, _mean_max_loss(logsigmoid(own) - weight * error), 0)

    moved = decode_deltas((deltas.detach() * unit).clamp(max=LARGEST_SIZE_DELTA), anchors)
    share = _share_of_best(_iou_of_pairs(boxes, moved), known, threshold=threshold).mT.to(logits.dtype)
    return positive, _negative_loss(logits, share, labels, gamma=gamma, factor=1 - alpha)


def _iou_of_pairs(boxes: Tensor, others: Tensor) -> Tensor:
    return box_iou(boxes[..., :, None, :], others[..., None, :, :])


def _pick(x: Tensor, near: Tensor) -> Tensor:
    """The rows of `x` that are in each bag: `[*batch n d]` -> `[*batch m k d]`."""
    rows = near.flatten(-2)[..., None]
    return x.gather(-2, rows.expand(*rows.shape[:-1], x.shape[-1])).reshape(*near.shape, x.shape[-1])


def _mean_max_loss(log_x: Tensor) -> Tensor:
    """The negative logarithm of Mean-max, whose odds M / (1 - M) are the mean of the odds of all x."""
    log_x = log_x.clamp(max=-torch.finfo(log_x.dtype).tiny)
    log_odds = log_x - (-log_x.expm1()).log()
    count = torch.ones_like(log_x).sum(-1)
    return softplus(count.log() - log_odds.logsumexp(-1))


def _share_of_best(iou: Tensor, known: Tensor, *, threshold: float) -> Tensor:
    """How well each predicted box localises each ground truth, in [0, 1]: `[*batch m n]`, as the IoU."""
    above = (iou - threshold).clamp(min=0)
    best = above.amax(-1, keepdim=True)
    return above / best.where(known[..., None] & (best > 0), torch.inf)


def _negative_loss(logits: Tensor, share: Tensor, labels: Tensor, *, gamma: float, factor: float) -> Tensor:
    """The loss of each anchor as far as it is no positive, from how well its predicted box localises each object: `[*batch n m]`."""
    image = torch.arange(logits.shape[:-1].numel(), device=logits.device) // logits.shape[-2]
    share_of_row, labels_of_image = share.flatten(0, -2), labels[..., None, :].flatten(0, -2)

    def formula(logits: Tensor, _: Tensor) -> Tensor:
        p = torch.zeros_like(logits).scatter_reduce(-1, labels[..., None, :].expand_as(share), share, "amax")
        z = _logit_of_rest(logits, p, _log(p))
        return factor * (z.sigmoid().clamp(min=torch.finfo(z.dtype).tiny) ** gamma * -logsigmoid(-z)).sum(-1)

    def kernel(x: Tensor, own: bool, rows: slice | Tensor, loss: Tensor, slope: Tensor, spare: Tensor) -> None:
        if not own:
            index = labels_of_image[image[rows]]
            p = spare.zero_().scatter_reduce_(-1, index, share_of_row[rows], "amax").gather(-1, index)
            focal_negatives(x, gamma, factor, loss, slope, spare)
            x, log_p = x.gather(-1, index), _log(p)
            localised_loss, localised_slope, spare = (torch.empty_like(x) for _ in range(3))
            focal_negatives(_logit_of_rest(x, p, log_p), gamma, factor, localised_loss, localised_slope, spare)
            loss.scatter_(-1, index, localised_loss)
            slope.scatter_(-1, index, localised_slope.mul_(x.add_(log_p).neg_().sigmoid_()))

    no_class = labels.new_full((), logits.shape[-1]).expand(logits.shape[:-1])
    return sum_over_classes(logits, no_class, formula, kernel)


def _logit_of_rest(logits: Tensor, p: Tensor, log_p: Tensor) -> Tensor:
    r"""The logit $z$ of $q = (1 - P)\,\sigma(x) = \sigma(z)$; where $P$ is 0, it is $x$."""
    return (-p).log1p() - torch.logaddexp(-logits, log_p)


def _log(p: Tensor) -> Tensor:
    """Natural logarithm; of 0, which is most of `p` and takes a processor ten times as long, it is filled in."""
    return torch.where(p > 0, safe_log(p), -torch.inf)
