"""Adversarial spatial dropout network (ASDN) of A-Fast-RCNN: Wang, Shrivastava and Gupta, CVPR 2017."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad, softplus

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen
from reference_impl.ops.select import take

__all__ = ["OcclusionNetwork", "adversarial_dropout", "hardest_window", "occlusion_loss"]


class OcclusionNetwork(nn.Module):
    """The adversary: looks at the pooled features of a region and says for each cell how much it would hurt to miss it.

    Five convolutions of 3 by 3. It is trained with `occlusion_loss`: first alone, with the windows that `hardest_window` finds; then
    together with the detector, with those masks of `adversarial_dropout` that lowered the probability of the right class. In both, no
    gradient reaches the features.

    Args:
        channels: $C$ of the features.
        hidden: $C_h$, channels of the inner layers.
    """

    def __init__(self, *, channels: int = 512, hidden: int = 256) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(channels if i == 0 else hidden, hidden, 3, padding=1) for i in range(4))
        self.last = nn.Conv2d(hidden, 1, 3, padding=1)
        for layer in (*self.layers, self.last):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Float[Tensor, "*batch c n m"]) -> Float[Tensor, "*batch n m"]:
        """One logit for each cell; the highest are the ones to drop. No gradient reaches the features."""
        x = features.detach().reshape(-1, *features.shape[-3:])
        for layer in self.layers:
            x = layer(x).relu()
        logits: Tensor = self.last(x)
        return logits.reshape(*features.shape[:-3], *features.shape[-2:])

    @staticmethod
    def windows(size: int = 7, window: int = 2, stride: int = 2, device: torch.device | None = None) -> Bool[Tensor, "k n n"]:
        """The masks that are tried before there is an adversary: a square slides over the features, moved inwards at the far border."""
        start = torch.arange(0, size, stride, device=device).clamp(max=size - window)
        cell = torch.arange(size, device=device)
        covered = (cell >= start[:, None]) & (cell < start[:, None] + window)
        return (covered[:, None, :, None] & covered[None, :, None, :]).flatten(0, 1)


@checked
def hardest_window(p_s: Float[Tensor, "*batch k"], windows: Bool[Tensor, "k n m"]) -> Bool[Tensor, "*batch n m"]:
    r"""Picks the occlusion under which the detector is least sure of the right class: what the adversary is to predict at first.

    $$ \hat k = \arg\min_k \; p_s(F \odot (1 - M_k)) $$

    All windows $M_k$ are tried on the features $F$ of every positive region, which takes one pass through the detector's head for each; its
    weights do not change meanwhile.

    Args:
        p_s: probability of the ground-truth class with each window of the features set to 0, in [0, 1].
        windows: the windows $M_k$, as `OcclusionNetwork.windows` gives them; True is dropped.

    Returns:
        One window for each region; the earlier one wins a tie.

    Raises:
        ValueError: the shapes do not fit together.
    """
    return pad(windows, (0, 0, 0, 0, 0, 1))[pad(widen(p_s.detach()), (0, 1), value=torch.inf).argmin(-1)]


@checked
def adversarial_dropout(
    features: Float[Tensor, "*batch c n m"],
    logits: Float[Tensor, "*batch n m"],
    foreground: Bool[Tensor, "*batch"] | None = None,
    noise: Float[Tensor, "*batch n m"] | None = None,
    *,
    candidates: int = 20,
    dropped: int = 15,
) -> tuple[Float[Tensor, "*batch c n m"], Bool[Tensor, "*batch n m"]]:
    r"""Blanks those cells of a positive region that the detector needs most, so that it learns to do without.

    $$ F' = F \odot (1 - M), \qquad M \subset \mathrm{top}_{n_c}(l), \quad |M| = n_d $$

    Of the $n_c$ cells with the highest logits, $n_d$ are drawn and set to 0 in all channels. The detector is trained on $F'$ as it would be
    on $F$. No gradient passes to the logits.

    Args:
        features: pooled features $F$ of each region.
        logits: $l$, what the `OcclusionNetwork` predicts for them.
        foreground: the regions to change; all by default. The authors leave background as it is.
        noise: picks among the candidates (those with the highest numbers are dropped), uniform in [0, 1); a fresh draw by default.
        candidates: $n_c$, of 49 cells in the paper's setting.
        dropped: $n_d$.

    Returns:
        The features, which may be negative where they were, and the mask $M$, True where they are set to 0.

    Raises:
        ValueError: the shapes do not fit together.
    """
    features, logits = widen(features), widen(logits.detach()).flatten(-2)
    noise = torch.rand_like(logits) if noise is None else noise.flatten(-2)
    hardest = take(logits, torch.ones_like(logits, dtype=torch.bool), candidates)
    mask = take(noise, hardest, dropped).view(*features.shape[:-3], *features.shape[-2:])
    if foreground is not None:
        mask = mask & foreground[..., None, None]
    return features.masked_fill(mask[..., None, :, :], 0), mask


@checked
def occlusion_loss(
    logits: Float[Tensor, "*batch n m"],
    mask: Bool[Tensor, "*batch n m"],
    p_before: Float[Tensor, "*batch"] | None = None,
    p_after: Float[Tensor, "*batch"] | None = None,
    *,
    threshold: float = 0.1,
) -> Float[Tensor, "*batch"]:
    r"""Teaches the adversary the masks that make the detector fail.

    $$ L = \frac{[p_{after} + \tau < p_{before}]}{n m} \sum_{ij} \mathrm{BCE}(\sigma(l_{ij}), M_{ij}) $$

    A mask that did not lower the probability of the right class teaches nothing. The authors average over all regions, those without a
    useful mask included, and weigh the loss by 0.0025 beside the detector's losses. No gradient reaches the probabilities.

    Args:
        logits: $l$, what the `OcclusionNetwork` predicts.
        mask: $M$, True where the features are dropped: from `hardest_window` at first, then from `adversarial_dropout`.
        p_before: probability of the ground-truth class with all features.
        p_after: the same with the dropped ones; without these two, every mask counts.
        threshold: $\tau$, by how much the probability must fall.

    Returns:
        One loss for each region.

    Raises:
        ValueError: the shapes do not fit together, or one of the probabilities is missing.
    """
    if (p_before is None) != (p_after is None):
        raise ValueError("occlusion_loss: give both `p_before` and `p_after`, or neither")
    logits = widen(logits)
    loss = (softplus(logits) - logits * mask).sum((-2, -1)) / max(mask.shape[-2] * mask.shape[-1], 1)
    if p_before is None or p_after is None:
        return loss
    return loss * (widen(p_after.detach()) + threshold < widen(p_before.detach()))
