"""Direct loss minimisation for average precision: Song, Schwing, Zemel and Urtasun, ICML 2016."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch._higher_order_ops.scan import scan
from torch.nn.functional import pad

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import nonnegative, widen
from reference_impl.ops.soft_ranks import descending, pack

__all__ = ["direct_ap_loss"]


@checked
def direct_ap_loss(
    logits: Float[Tensor, "*batch n"], positive: Bool[Tensor, "*batch n"], negative: Bool[Tensor, "*batch n"], *, epsilon: float = 0.1
) -> Float[Tensor, "*batch"]:
    r"""One minus the average precision of a class in a ranking a little worse than the scores' or better, and what it takes to get there.

    $$ L_\epsilon = \frac{1}{\epsilon} \left( \max_y \left( F(y) + \epsilon L(y) \right) - \max_y F(y) \right), \qquad
    F(y) = \frac{1}{|\mathcal{P}| |\mathcal{N}|} \sum_{i \in \mathcal{P}} \sum_{j \in \mathcal{N}} y_{ij} (s_i - s_j), \qquad
    L(y) = 1 - \frac{1}{|\mathcal{P}|} \sum_{i \in \mathcal{P}} \mathrm{Prec}_y(i) $$

    A ranking $y$ has $y_{ij} = 1$ if it puts positive $i$ before negative $j$, and else $-1$; $\mathrm{Prec}_y(i)$ is its precision at
    positive $i$. The ranking of the scores maximises $F$. So $L_\epsilon$ is at least the loss $L$ of that ranking, at most if
    $\epsilon$ is below 0, and becomes it as $\epsilon$ goes to 0. The derivative is the paper's positive update, away from a worse ranking,
    or for an $\epsilon$ below 0 its negative update, towards a better one: each pair that the best ranking with the loss swaps is drawn
    apart by $2 / (|\epsilon| |\mathcal{P}| |\mathcal{N}|)$.

    The maximum is exact, in time $O(|\mathcal{P}| |\mathcal{N}|)$. Positives keep their order, and so do negatives. The $j$-th negative
    adds $i / ((i + j - 1) (i + j)) / |\mathcal{P}|$ to the loss by rising above the $i$-th positive. That falls with $j$, so where loss is
    sought, each negative may take the place that is best for itself. Where it is avoided, the places depend on each other, and a dynamic
    programme finds them, one positive after the other.

    The paper does this for each class and mini-batch; stack the classes in a leading dimension for that.

    Args:
        logits: $s$, one for each box.
        positive: the boxes with an object of the class.
        negative: the boxes without; the rest is ignored.
        epsilon: $\epsilon$, how much the loss counts beside the scores: a large one reaches pairs with a large margin. Not 0.

    Returns:
        One loss for each ranking, in [0, 1]; 0 without positives or negatives.

    Raises:
        ValueError: the shapes of `positive` or `negative` are not that of `logits`, or `epsilon` is 0.
    """
    if epsilon == 0:
        raise ValueError("direct_ap_loss: `epsilon` is 0; expected a number above or below")
    score = logits.double()
    (up, own), (down, others) = (_descending(score.detach(), mask) for mask in (positive, negative))
    positives, negatives = (mask.sum(-1, keepdim=True).double() for mask in (positive, negative))
    i, j = (torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=torch.float64) for x in (up, down))

    # Behind how many positives each negative stands, and behind how many negatives each positive; neither falls.
    is_positive, is_negative = i <= positives, j <= negatives
    before = torch.searchsorted(-up, -down)
    above = _less_than_number(before, up)
    strength = epsilon / 2 * negatives
    if epsilon > 0:
        places = _places_of_negatives(up, down.where(is_negative, 0), strength)
        before_with_loss = before.where(~is_negative, torch.minimum(before, places))
        above_with_loss = _less_than_number(before_with_loss, up)
    else:
        above_with_loss = above.where(~is_positive, _places_of_positives(up, down, strength))
        before_with_loss = before.where(~is_negative, _less_than_number(above_with_loss, down))

    loss = torch.where(is_positive, above_with_loss / (i + above_with_loss), 0).sum(-1)
    up, down = (score.gather(-1, index) for index in (own, others))
    price = 2 * (((above_with_loss - above) * up).sum(-1) - ((before - before_with_loss) * down).sum(-1))
    positives, negatives = positives.squeeze(-1).clamp(min=1), negatives.squeeze(-1).clamp(min=1)
    return nonnegative(loss / positives - price / (epsilon * positives * negatives)).to(widen(logits).dtype)


def _places_of_negatives(up: Tensor, down: Tensor, strength: Tensor) -> Tensor:
    r"""Behind how many positives each negative is best for the sum of scores and loss.

    Behind $k$, the $j$-th has the gain $\sum_{i \le k} (s_i - s_j - c \frac{i}{(i + j - 1) (i + j)})$, of which the second part is
    $-c\,(H_{k + j - 1} - H_{j - 1} - \frac{k}{k + j})$ with the harmonic numbers $H$. The best $k$ does not fall with $j$.
    """
    positives, negatives = up.shape[-1], down.shape[-1]
    number = torch.arange(positives + negatives + 1, dtype=up.dtype, device=up.device)
    k, j = number[: positives + 1], number[1 : negatives + 1, None]
    harmonic = torch.where(number > 0, 1 / number, 0).cumsum(0)
    loss = harmonic[(k + j - 1).long()] - k / (k + j)
    gain = pad(up.cumsum(-1), (1, 0))[..., None, :] - k * down[..., None] - strength[..., None] * loss
    return gain.argmax(-1).cummax(-1).values


def _places_of_positives(up: Tensor, down: Tensor, strength: Tensor) -> Tensor:
    r"""Behind how many negatives each positive is best for the sum of scores and loss, of places that do not fall.

    Behind $k$, the $i$-th has the gain $\sum_{j \le k} (s_j - s_i) - c \frac{i}{i + k}$. The best sum of the first $i$ gains with the last
    behind $k$ is that gain and the best sum of those before with none behind more. Read backwards, the best sums say where each was.
    """
    number = torch.arange(up.shape[-1] + down.shape[-1] + 1, dtype=up.dtype, device=up.device)
    k, i = number[: down.shape[-1] + 1], number[1 : up.shape[-1] + 1, None]
    gain = pad(down.cumsum(-1), (1, 0))[..., None, :] - k * up[..., None] - strength[..., None] * (i / (i + k))
    # A last row without gain looks for the best sum of all.
    rows = pad(gain.where((up > -torch.inf)[..., None], 0), (0, 0, 0, 1)).movedim(-2, 0)

    def best_sums(best: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        best, place = best.cummax(-1)
        return best + row, place

    def look_up(place: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        place = row.gather(-1, place)
        return place, place.clone()

    _, earlier = _one_by_one(best_sums, torch.zeros_like(rows[0]), rows)
    last = torch.full_like(earlier[0, ..., :1], down.shape[-1])
    _, place = _one_by_one(look_up, last, earlier, reverse=True)
    return place[1:].squeeze(-1).movedim(0, -1)


def _one_by_one(
    step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], state: Tensor, rows: Tensor, *, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """The state after a step with each row, and what the steps gave; a compiler gets one loop for any number of them."""
    if torch.compiler.is_compiling():
        found: tuple[Tensor, Tensor] = scan(step, state, rows, reverse=reverse)
        return found
    results = []
    for row in rows.flip(0) if reverse else rows:
        state, result = step(state, row)
        results.append(result)
    return state, torch.stack(results[::-1] if reverse else results)


def _less_than_number(values: Tensor, like: Tensor) -> Tensor:
    """How many of the ascending values are less than 1, less than 2, and so on."""
    number = torch.arange(1, like.shape[-1] + 1, device=like.device).expand_as(like).contiguous()
    return torch.searchsorted(values, number)


def _descending(score: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of a set in descending order, then -inf, and where they stand."""
    index, found = pack(mask)
    score = score.gather(-1, index)
    score, order = descending(score if found is None else score.masked_fill(~found, -torch.inf))
    return score, index.gather(-1, order)
