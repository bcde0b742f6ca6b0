"""Direct loss minimisation for average precision: Song, Schwing, Zemel and Urtasun, ICML 2016."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen
from reference_impl.ops.soft_ranks import descending, pack

__all__ = ["direct_ap_loss"]


@checked
def direct_ap_loss(
    logits: Float[Tensor, "*batch n"], positive: Bool[Tensor, "*batch n"], negative: Bool[Tensor, "*batch n"], *, epsilon: float = 0.1
) -> Float[Tensor, "*batch"]:
    r"""One minus the average precision of a class in the ranking that is a little worse than the scores', less what it takes to get there.

    $$ L_\epsilon = \frac{1}{\epsilon} \left( \max_y \left( F(y) + \epsilon L(y) \right) - \max_y F(y) \right), \qquad
    F(y) = \frac{1}{|\mathcal{P}| |\mathcal{N}|} \sum_{i \in \mathcal{P}} \sum_{j \in \mathcal{N}} y_{ij} (s_i - s_j), \qquad
    L(y) = 1 - \frac{1}{|\mathcal{P}|} \sum_{i \in \mathcal{P}} \mathrm{Prec}_y(i) $$

    A ranking $y$ has $y_{ij} = 1$ if it puts positive $i$ before negative $j$, and else $-1$; $\mathrm{Prec}_y(i)$ is its precision at
    positive $i$. The ranking of the scores maximises $F$, so $L_\epsilon$ is at least the loss $L$ of that ranking, and becomes it as
    $\epsilon$ goes to 0. The derivative is the paper's positive update: each pair that the best ranking with the loss swaps is drawn
    apart by $2 / (\epsilon |\mathcal{P}| |\mathcal{N}|)$.

    The maximum is exact. Positives keep their order, and so do negatives; the $j$-th negative adds
    $i / ((i + j - 1) (i + j)) / |\mathcal{P}|$ to the loss by rising above the $i$-th positive. That falls with $j$, so each
    negative may take the place that is best for itself, in time $O(|\mathcal{P}| |\mathcal{N}|)$.

    The paper does this for each class and mini-batch; stack the classes in a leading dimension for that.

    Args:
        logits: $s$, one for each box.
        positive: the boxes with an object of the class.
        negative: the boxes without; the rest is ignored.
        epsilon: $\epsilon > 0$, how much the loss counts beside the scores: a large one reaches pairs with a large margin.

    Returns:
        One loss for each ranking, in [0, 1]; 0 without positives or negatives.

    Raises:
        ValueError: the shapes of `positive` or `negative` are not that of `logits`, or `epsilon` is not positive.
    """
    if epsilon <= 0:
        raise ValueError(f"direct_ap_loss: `epsilon` is {epsilon}; expected a number > 0")
    score = logits.double()
    (up, own), (down, others) = (_descending(score.detach(), mask) for mask in (positive, negative))
    positives, negatives = (mask.sum(-1, keepdim=True).double() for mask in (positive, negative))
    i, j = (torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=torch.float64) for x in (up, down))

    # Behind how many positives each negative stands, which does not fall from one negative to the next.
    is_negative = j <= negatives
    before = torch.searchsorted(-up, -down)
    places = _places_with_loss(up, down.where(is_negative, 0), epsilon / 2 * negatives)
    before_with_loss = before.where(~is_negative, torch.minimum(before, places))

    # How many negatives stand before the i-th positive.
    number = torch.arange(1, len(i) + 1, device=up.device).expand_as(up).contiguous()
    above, above_with_loss = (torch.searchsorted(x, number) for x in (before, before_with_loss))
    loss = torch.where(i <= positives, above_with_loss / (i + above_with_loss), 0).sum(-1)
    up, down = (score.gather(-1, index) for index in (own, others))
    price = 2 * (((above_with_loss - above) * up).sum(-1) - ((before - before_with_loss) * down).sum(-1))
    positives, negatives = positives.squeeze(-1).clamp(min=1), negatives.squeeze(-1).clamp(min=1)
    return (loss / positives - price / (epsilon * positives * negatives)).clamp(min=0).to(widen(logits).dtype)


def _places_with_loss(up: Tensor, down: Tensor, strength: Tensor) -> Tensor:
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


def _descending(score: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of a set in descending order, then -inf, and where they stand."""
    index, found = pack(mask)
    score = score.gather(-1, index)
    score, order = descending(score if found is None else score.masked_fill(~found, -torch.inf))
    return score, index.gather(-1, order)
