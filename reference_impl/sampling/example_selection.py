"""Bootstrapped example selection: Sung and Poggio, TPAMI 1998."""

from jaxtyping import Bool, Float
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen

__all__ = ["example_selection"]


@checked
def example_selection(
    score: Float[Tensor, "*batch n"],
    negative: Bool[Tensor, "*batch n"],
    mined: Bool[Tensor, "*batch n"] | None = None,
    *,
    threshold: float = 0.5,
) -> Float[Tensor, "*batch n"]:
    r"""Trains only on negatives that have something to teach: those that some classifier so far has taken for an object.

    $$ \mathcal{N}_{t+1} = \mathcal{N}_t \cup \{i \in \mathcal{N} : f_t(i) > \theta\} $$

    This is one round, the step between two trainings: run the classifier $f_t$ over images without an object, add every mistake, and train
    $f_{t+1}$ on all objects and the new set. The first set is small; what is in the set stays there. No gradient passes through.

    Args:
        score: foreground score $f_t$ of each window by the current classifier, in [0, 1].
        negative: the windows $\mathcal{N}$ without an object.
        mined: the negatives $\mathcal{N}_t$ that are in the set already; by default none.
        threshold: score $\theta$ above which a negative is taken for an object.

    Returns:
        1 for each negative of the new set $\mathcal{N}_{t+1}$ and 0 for every other window. Objects are always trained on, and not among
        these.
    """
    score = widen(score)
    mistaken = score > threshold
    selected = mistaken if mined is None else mistaken | mined
    return (selected & negative).to(score)
