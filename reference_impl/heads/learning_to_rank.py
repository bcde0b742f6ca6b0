"""Learning to rank proposals (LTR): Tan, Nie, Qian, Li and Li, ICCV 2019."""

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import softplus

from reference_impl.ops.checked import checked
from reference_impl.ops.density import bin_index
from reference_impl.ops.numerics import safe_divide, widen
from reference_impl.ops.select import take

__all__ = ["LearningToRank", "pairwise_ranking_loss"]


class LearningToRank(nn.Module):
    """Gives each candidate the score that suppression sorts by: two layers beside the classifier, on the same pooled features.

    It is trained by `pairwise_ranking_loss`. At inference its output takes the place of the class score in `nms`; what is kept goes on with
    its class score.

    Args:
        features: numbers of a pooled candidate.
        hidden: $d$, width of the inner layer.
    """

    def __init__(self, features: int, *, hidden: int = 256) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(features, hidden), nn.Linear(hidden, 1)

    @checked
    def forward(self, pooled: Float[Tensor, "*batch n features"]) -> Float[Tensor, "*batch n"]:
        """Pooled features of each candidate, flat -> its ranking score, any number."""
        score: Tensor = self.last(self.hidden(pooled).relu())
        return score.squeeze(-1)


@checked
def pairwise_ranking_loss(
    logits: Float[Tensor, "*batch n"],
    iou: Float[Tensor, "*batch n"],
    truth: Int[Tensor, "*batch n"] | None = None,
    valid: Bool[Tensor, "*batch n"] | None = None,
    *,
    levels: int = 10,
    hardest: int = 256,
) -> Float[Tensor, "*batch"]:
    r"""Trains the scores so that the candidate with the higher IoU has the higher one, on the pairs that are furthest from that.

    $$ L = \frac{1}{|P'|} \sum_{(i, j) \in P'} \ln(1 + e^{x_j - x_i}), \qquad
    P' \subset P = \{(i, j) : t_i = t_j,\; \mathrm{level}(\mathrm{IoU}_i) > \mathrm{level}(\mathrm{IoU}_j)\} $$

    $P$ are the pairs of candidates of one object. Candidates that are about equally good make no pair: [0, 1] is cut into $m$ levels, and
    the two of a pair have IoUs of different levels. $P'$ are the $K$ pairs with the largest loss. No gradient passes to the IoUs.

    Args:
        logits: $x$, the ranking score of each candidate.
        iou: of each candidate with its ground truth, in [0, 1].
        truth: index $t$ of that ground truth; by default all have the same, and every pair of candidates is compared.
        valid: the candidates to compare; by default all.
        levels: $m$, number of equal parts of [0, 1].
        hardest: $K$, how many pairs count; all if there are fewer.

    Returns:
        One loss for each image, a mean over pairs; 0 if there are none.
    """
    logits = widen(logits)
    level = bin_index(iou.detach(), bins=levels)
    pairs = level[..., :, None] > level[..., None, :]
    if truth is not None:
        pairs = pairs & (truth[..., :, None] == truth[..., None, :])
    if valid is not None:
        pairs = pairs & valid[..., :, None] & valid[..., None, :]
    violation = (logits[..., None, :] - logits[..., :, None]).flatten(-2)
    chosen = take(violation.detach(), pairs.flatten(-2), hardest)
    return safe_divide((softplus(violation) * chosen).sum(-1), chosen.sum(-1).to(logits.dtype))
