r"""Soft ranks of positives: scores above each, counted with a ramp for a step, without a loop over the positives.

The ramp is $H(x) = \min(\max(x + 1/2, 0), 1)$, and $H_{ij} = H(d_i - d_j)$ says how far score $j$ stands above positive $i$, where $d$ is
the depth of a score below the highest positive, in lengths of the ramp and counted from 1. A ranking loss needs the products of $H$ with a
few vectors. A small matrix is made and multiplied. The products of a large one are sums over ranges of sorted scores, so they come from
one sort and prefix sums, in time $O(n \log n)$ and memory $O(n)$.

Only fractions are summed, so that the sums keep their digits however short the ramp is. That of positive $i$ ends at the depth
$t = d_i + 1/2$; on it, $H_{ij} = t - d_j$ is $\{t\} - \{d_j\}$ where $d_j$ and $t$ have the same whole part, and 1 more before.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reference_impl.ops.numerics import host_may_look, is_plain, widen

__all__ = ["Ramps", "Ranking", "SquareRamps", "descending", "empty_update", "pack"]

SMALL = 2**17
SMALL_SORT = 2**12


def descending(score: Float[Tensor, "*batch n"]) -> tuple[Float[Tensor, "*batch n"], Int[Tensor, "*batch n"]]:
    """The scores in descending order, and the index of each.

    On a CPU, integers in the opposite order are sorted, made of the bits of the floats: it does that by radix, several times as fast.
    """
    if score.numel() < SMALL_SORT or score.device.type != "cpu" or not is_plain(score):
        return score.sort(dim=-1, descending=True)
    bits = score.view(torch.int64 if score.dtype == torch.float64 else torch.int32)
    key, order = _flip_negative(bits).bitwise_not_().sort(dim=-1)
    return _flip_negative(key.bitwise_not_()).view(score.dtype), order


def pack(mask: Bool[Tensor, "*batch n"]) -> tuple[Int[Tensor, "*batch k"], Bool[Tensor, "*batch k"] | None]:
    """Indices of the true elements of each row, and which indices these are; None if all.

    Where it costs no wait for the device, and no compiler or transform needs fixed sizes, there are as many indices as the fullest row has.
    Elsewhere all elements are listed as they stand. No index is listed twice.
    """
    if not host_may_look(mask):
        return torch.arange(mask.shape[-1], device=mask.device).expand_as(mask), mask
    if mask.numel() == mask.shape[-1]:
        return mask.flatten().nonzero().view(*mask.shape[:-1], -1), None
    index = mask.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)
    index = index[..., : int(mask.sum(-1).max()) if mask.numel() else 0]
    return index, mask.gather(-1, index)


class Ramps:
    """The matrix $H$ of positives and scores by their depths, known by its products.

    Args:
        positive: depths of the positives, >= 0.
        score: depths of the scores, >= 0; ascending unless the matrix is small.
    """

    def __init__(self, positive: Float[Tensor, "*batch p"], score: Float[Tensor, "*batch n"]) -> None:
        self.positive, self.score = positive, score
        self.small = _is_small(positive, score)
        if self.small:
            self.matrix = (positive[..., :, None] + 0.5 - score[..., None, :]).clamp(0, 1)
        else:
            end = positive + 0.5
            self.begin, self.middle, self.end = (torch.searchsorted(score, x) for x in (end - 1, end.floor(), end))
            self.end_fraction, self.fraction = end.frac(), score.frac()

    def times(self, weight: Float[Tensor, "*batch n"] | None = None) -> Float[Tensor, "*batch p"]:
        r"""$\sum_j H_{ij} w_j$, with a weight of 1 by default."""
        if self.small:
            return self.matrix.sum(-1) if weight is None else (self.matrix @ weight[..., None]).squeeze(-1)
        if weight is None:
            whole, within, moment = self.middle, self.end - self.begin, self.fraction.cumsum(-1)
        else:
            count, moment = weight.cumsum(-1), (weight * self.fraction).cumsum(-1)
            whole, within = _before(count, self.middle), _between(count, self.begin, self.end)
        return whole + self.end_fraction * within - _between(moment, self.begin, self.end)

    def transposed_times(self, weight: Float[Tensor, "*batch p"]) -> Float[Tensor, "*batch n"]:
        r"""$\sum_i w_i H_{ij}$ for weights >= 0."""
        if self.small:
            return (weight[..., None, :] @ self.matrix).squeeze(-2)
        # Over the scores in order, a term is w before its ramp, then w (1 + end - depth), from the middle w (end - depth), and 0 after it.
        end, shape = weight * self.end_fraction, (*self.score.shape[:-1], self.score.shape[-1] + 1)
        offset, slope = (
            weight.new_zeros(shape).scatter_add_(-1, torch.cat(places, -1), torch.cat(steps, -1)).cumsum_(-1)[..., :-1]
            for places, steps in (
                ((self.begin, self.middle, self.end), (end, -weight, -end)),
                ((self.begin, self.end), (-weight, weight)),
            )
        )
        return slope.mul_(self.fraction).add_(offset).add_(weight.sum(-1, keepdim=True)).clamp_(min=0)


class SquareRamps(Ramps):
    """The matrix $H$ of positives and positives, in which each outranks itself by half; also of the pairs alone whose upper one is worse.

    Args:
        depth: of the positives, ascending.
        quality: $t$, one for each.
    """

    def __init__(self, depth: Float[Tensor, "*batch p"], quality: Float[Tensor, "*batch p"]) -> None:
        super().__init__(depth, depth)
        self.quality = quality
        if self.small:
            self.matrix_of_worse = self.matrix * (quality[..., None, :] < quality[..., :, None])
        else:
            self.rank = torch.searchsorted(quality.sort(dim=-1).values, quality)

    def times_worse(self, weight: Float[Tensor, "*batch v p"]) -> Float[Tensor, "*batch v p"]:
        r"""$\sum_k [t_k < t_i] H_{ik} w_k$, for several vectors."""
        if self.small:
            return weight @ self.matrix_of_worse.mT
        return _sums_of_worse(self, weight)

    def transposed_times_worse(self, weight: Float[Tensor, "*batch v p"]) -> Float[Tensor, "*batch v p"]:
        r"""$\sum_i [t_k < t_i] w_i H_{ik}$, for several vectors: `times_worse` in a mirror."""
        if self.small:
            return weight @ self.matrix_of_worse
        mirrored = SquareRamps(1 + self.score[..., -1:] - self.score.flip(-1), -self.quality.flip(-1))
        return _sums_of_worse(mirrored, weight.flip(-1)).flip(-1)


class Ranking:
    r"""The scores of a detector in one ranking: positives, and the negatives that are not below all of their ramps.

    Args:
        logits: $s$, one for each of $C$ foreground classes.
        labels: 0 to $C - 1$; a box with another label is background. A box's score for its label is a positive, all others are negatives.
        valid: the scores of the other boxes are not ranked; by default all are valid.
        delta: $\delta > 0$, half the length of the ramp, in the unit of the logits.

    Attributes:
        box: the boxes of the positives, from the highest score to the lowest.
        positive: which of them are; the rest only fills up the shape.
        share: of each positive in a mean over all; 0 for the rest.
        depth: of each positive.
        negatives: the matrix of positives and negatives.
    """

    def __init__(self, logits: Tensor, labels: Tensor, valid: Tensor | None, *, delta: float) -> None:
        self.logits, classes = logits, logits.shape[-1]
        score = widen(logits.detach()).flatten(-2)
        positive = (labels >= 0) & (labels < classes)
        if valid is not None:
            positive = positive & valid
        self.box, found = pack(positive)
        self.own = self.box * classes + labels.gather(-1, self.box).clamp(0, classes - 1)
        own = score.gather(-1, self.own)
        if found is not None:
            own = own.masked_fill(~found, -torch.inf)
        own, order = descending(own)
        self.box, self.own = self.box.gather(-1, order), self.own.gather(-1, order)
        self.positive = own != -torch.inf
        share = self.positive.double()
        self.share = share / share.sum(-1, keepdim=True).clamp(min=1)

        highest, lowest = _ends(own, every=found is None)
        negative = (score < lowest - delta).logical_not_()
        if valid is not None:
            negative &= valid[..., None].expand_as(logits).flatten(-2)
        negative.scatter_(-1, self.own, negative.gather(-1, self.own) & ~self.positive)
        self.negative, self.found = pack(negative)
        others = score.gather(-1, self.negative)
        if self.found is not None:
            others = others.masked_fill(~self.found, -torch.inf)
        if not _is_small(own, others):
            others, order = descending(others)
            self.negative = self.negative.gather(-1, order)
            self.found = None if self.found is None else self.found.gather(-1, order)

        top = highest.double() + 2 * delta
        deepest = (top - lowest).div_(2 * delta).add_(1)
        self.depth, depths = ((top - x).div_(2 * delta).minimum(deepest).clamp_(min=0) for x in (own, others))
        self.negatives = Ramps(self.depth, depths)

    def of_boxes(self, value: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch p"]:
        """What the boxes of the positives have; 0 for the rest."""
        return value.gather(-1, self.box).masked_fill(~self.positive, 0)

    def update(
        self,
        error: Float[Tensor, "*batch p"],
        on_positives: Float[Tensor, "*batch p"],
        on_negatives: Float[Tensor, "*batch m"] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The sum of the positives' errors, and a gradient on all logits, `[*batch n*c]`, that is given for positives and negatives."""
        dtype, *batch, n, c = widen(self.logits).dtype, *self.logits.shape
        gradient = on_positives.new_zeros((*batch, n * c), dtype=dtype)
        if on_negatives is not None:
            if self.found is not None:
                on_negatives = on_negatives.masked_fill(~self.found, 0)
            gradient.scatter_(-1, self.negative, on_negatives.to(dtype))
        return error.sum(-1).to(dtype), gradient.scatter_add_(-1, self.own, on_positives.to(dtype))


def empty_update(logits: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    """A value for each ranking and an update of its logits, without content."""
    logits = widen(logits)
    return logits.new_empty(logits.shape[:-2]), torch.empty_like(logits.flatten(-2))


def _ends(ordered: Tensor, *, every: bool) -> tuple[Tensor, Tensor]:
    """The highest and the lowest of descending scores, where -inf, which is allowed unless `every` one counts, is no score.

    Without a score, they are such that no other score is within reach.
    """
    if every and ordered.shape[-1]:
        return ordered[..., :1], ordered[..., -1:]
    ordered = torch.nn.functional.pad(ordered, (0, 1), value=-torch.inf)
    absent = ordered == -torch.inf
    highest = ordered.masked_fill(absent, torch.finfo(ordered.dtype).max)[..., :1]
    return highest, ordered.masked_fill(absent, torch.inf).amin(-1, keepdim=True).minimum(highest)


def _is_small(positive: Tensor, score: Tensor) -> bool:
    return positive.numel() * score.shape[-1] <= SMALL


def _sums_of_worse(ramps: SquareRamps, weight: Tensor) -> Tensor:
    """Sums over the pairs whose upper one has the lower rank, in time O(n log^2 n), for all bits of the ranks at once.

    Two ranks first differ in one bit. For each bit, the elements are grouped by the bits before it, and keep their order in a group. There,
    an element whose own bit is 1 has lower ones where the bit is 0, and as much of them as its ramp covers are a range.
    """
    rank, n = ramps.rank, weight.shape[-1]
    bits = max(n - 1, 1).bit_length()
    bit, place = torch.arange(bits, device=rank.device)[:, None], torch.arange(n, device=rank.device)
    key, order = ((rank[..., None, :] >> bit >> 1) * (n + 1) + place).sort(dim=-1)

    def sort(x: Tensor) -> Tensor:
        return x[..., None, :].expand(*x.shape[:-1], bits, n).gather(-1, order)

    group = key - order
    start = place.masked_fill(torch.diff(group, prepend=group[..., :1]) == 0, 0).cummax(-1).values
    begin, middle = (torch.searchsorted(key, group + sort(x)) for x in (ramps.begin, ramps.middle))
    end = key.new_zeros(*key.shape[:-1], n + 1).scatter_add_(-1, begin, torch.ones_like(begin)).cumsum(-1)[..., :-1]
    low, end_fraction, fraction = sort(rank) >> bit & 1 == 0, sort(ramps.end_fraction), sort(ramps.fraction)
    total = torch.zeros_like(weight)
    for v in range(weight.shape[-2]):
        value = sort(weight[..., v, :]) * low
        count, moment = value.cumsum(-1), (value * fraction).cumsum(-1)
        on_ramp = end_fraction * _between(count, begin, end) - _between(moment, begin, end)
        found = (_between(count, start, middle) + on_ramp).masked_fill(low, 0)
        total[..., v, :] = torch.empty_like(found).scatter(-1, order, found).sum(-2)
    return total


def _before(sums: Tensor, place: Tensor) -> Tensor:
    """The sum of all elements before a place, of prefix sums."""
    return torch.where(place > 0, sums.gather(-1, (place - 1).clamp(min=0)), 0)


def _between(sums: Tensor, begin: Tensor, end: Tensor) -> Tensor:
    """The sum of all elements from one place up to another, of prefix sums."""
    return _before(sums, end) - _before(sums, begin)


def _flip_negative(bits: Tensor) -> Tensor:
    """Turns the bits of floats into integers in the same order, and back."""
    return (bits >> 8 * bits.element_size() - 1).bitwise_and_(torch.iinfo(bits.dtype).max).bitwise_xor_(bits)
