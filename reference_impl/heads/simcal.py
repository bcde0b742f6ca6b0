"""SimCal: Wang, Li, Kang, Li, Liew, Tang, Hoi and Feng, ECCV 2020."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen
from reference_impl.ops.select import take

__all__ = ["CalibrationHead", "bilevel_sampling", "draw_classes", "simcal"]


@checked
def simcal(
    logits: Float[Tensor, "*batch n c"],
    calibrated_logits: Float[Tensor, "*batch n c"],
    counts: Int[Tensor, "c"],
    *,
    threshold: int = 100,
) -> Float[Tensor, "*batch n c"]:
    r"""Scores at inference: those of the calibrated head for rare classes, those of the original head for all others.

    $$ s_c = \begin{cases} \mathrm{softmax}(\tilde x)_c, & N_c < T \\ \mathrm{softmax}(x)_c, & \text{otherwise} \end{cases} $$

    Each softmax is over all classes and background, so the scores of a box need not sum to 1.

    Args:
        logits: $x$ of the original head, background last.
        calibrated_logits: $\tilde x$ of the calibrated head, in the same order.
        counts: training instances $N_c$ of each class; what stands for background is not used.
        threshold: number $T$ of instances below which a class is rare.

    Returns:
        One score for each box and class, in [0, 1]; that of background is the original one.
    """
    place = torch.arange(counts.shape[0], device=counts.device)
    rare = (counts < threshold) & (place < counts.shape[0] - 1)
    return torch.where(rare, widen(calibrated_logits).softmax(-1), widen(logits).softmax(-1))


@checked
def draw_classes(noise: Float[Tensor, "*batch m"], counts: Int[Tensor, "*batch c"]) -> Int[Tensor, "*batch m"]:
    r"""First level of the sampling: draws classes, each as likely as any other that has an instance, whatever its number.

    $$ P(c) = \frac{[N_c > 0]}{|\{k : N_k > 0\}|} $$

    Then an image of each class is drawn, uniformly among those that show it. A class may be drawn twice. The authors draw 16 for a
    mini-batch.

    Args:
        noise: uniform in [0, 1), one number for each class to draw.
        counts: training instances $N_c$ of each class.

    Returns:
        The drawn classes; the number of classes where none has an instance.
    """
    present = (counts > 0).long().cumsum(-1)
    index = (widen(noise) * present[..., -1:]).long()
    return torch.searchsorted(present, (index + 1).contiguous())


@checked
def bilevel_sampling(
    labels: Int[Tensor, "*batch n"],
    drawn: Int[Tensor, "*batch n"],
    positive: Bool[Tensor, "*batch n"],
    negative: Bool[Tensor, "*batch n"],
    noise: Float[Tensor, "*batch n"] | None = None,
) -> Float[Tensor, "*batch n"]:
    r"""Second level of the sampling: of an image drawn for a class, only the boxes of that class are used, and equally many of background.

    $$ \mathcal{P}' = \{i \in \mathcal{P} : y_i = d_i\}, \qquad \mathcal{N}' \subset \mathcal{N}, \quad
    |\mathcal{N}'| = \min(|\mathcal{P}'|, |\mathcal{N}|) $$

    An image that was drawn for a rare class shows frequent ones as well, which would bring the imbalance back. Background is drawn from all
    images of the mini-batch together: put them in one set. The calibrated head learns from these boxes by plain cross entropy, all else is
    frozen.

    Args:
        labels: class $y_i$ of each box; that of negatives is not used.
        drawn: class $d_i$ that the box's image was drawn for.
        positive: boxes $\mathcal{P}$ with an object.
        negative: boxes $\mathcal{N}$ without.
        noise: uniform in [0, 1), orders the negatives (highest first); a fresh draw by default.

    Returns:
        1 for each chosen box and 0 for every other.
    """
    noise = torch.rand(positive.shape, device=positive.device) if noise is None else widen(noise)
    own = positive & (labels == drawn)
    return (own | take(noise, negative, own.sum(-1, keepdim=True))).to(noise.dtype)


class CalibrationHead(nn.Module):
    """The classifier that is trained anew: three layers on the pooled features of a box, of the shape of the usual head.

    In the authors' best variant its weights start as those of the original head. All else of the detector is frozen.

    Args:
        features: numbers of a pooled box, as 256 x 7 x 7.
        classes: number of classes with background.
        hidden: $h$, width of both hidden layers.
    """

    def __init__(self, features: int, classes: int, *, hidden: int = 1024) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    @checked
    def forward(self, pooled: Float[Tensor, "*batch n features"]) -> Float[Tensor, "*batch n c"]:
        """Pooled features of each box, flat -> `calibrated_logits`."""
        logits: Tensor = self.layers(pooled)
        return logits
