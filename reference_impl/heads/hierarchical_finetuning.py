"""Hierarchical finetuning for a long tail of classes: Ouyang, Wang, Zhang and Yang, CVPR 2016."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import safe_divide, widen

__all__ = ["class_similarity", "hierarchical_finetuning", "hierarchical_groups"]


@checked
def class_similarity(
    features: Float[Tensor, "*batch n k"], labels: Int[Tensor, "*batch n"], counts: Int[Tensor, "*batch c"]
) -> Float[Tensor, "*batch c c"]:
    r"""How alike two classes look to a pretrained network: the mean inner product of an example of the one with one of the other.

    $$ S_{ab} = \frac{1}{N_a N_b} \sum_{i \in a} \sum_{j \in b} h_i^\top h_j $$

    It is the inner product of the mean features, so that no pairs of examples are formed, and every class counts alike, however many
    examples it has.

    Args:
        features: $h_i$ of each example, from the last layer.
        labels: its class, 0 to $C - 1$; examples of any other class are left out.
        counts: number $N_a$ of examples of each class.

    Returns:
        The similarity of each pair of classes, symmetric; 0 for a class without examples. It may be negative.
    """
    features = widen(features)
    classes = counts.shape[-1]
    place = torch.where((labels >= 0) & (labels < classes), labels, classes)[..., None].expand(features.shape)
    total = features.new_zeros(*counts.shape[:-1], classes + 1, features.shape[-1]).scatter_add(-2, place, features)[..., :-1, :]
    mean = safe_divide(total, counts[..., None].to(total.dtype).expand_as(total)).double()
    return (mean @ mean.mT).to(features.dtype)


@checked
def hierarchical_groups(similarity: Float[Tensor, "*batch c c"], *, groups: int = 4) -> Int[Tensor, "*batch c"]:
    r"""Joins the two groups of classes that are most alike, again and again, until a few are left.

    $$ S_{AB} = \frac{1}{|A| |B|} \sum_{a \in A} \sum_{b \in B} S_{ab} $$

    is the similarity of two groups. If fewer groups are left, they are unions of these, so the groups for several numbers make a tree. A
    group is finetuned from the model of the group that contains it. It runs once, before training, in $C$ rounds.

    Args:
        similarity: $S_{ab}$ of each pair of classes, symmetric.
        groups: $G$, how many groups to leave; with no more classes, each is alone.

    Returns:
        The group of each class; they are numbered by their first class.
    """
    total = widen(similarity.detach())
    classes = total.shape[-1]
    place = torch.arange(classes, device=total.device)
    group = place.expand(total.shape[:-1])
    size = torch.ones_like(total[..., 0])
    for _ in range(classes - groups):
        pair = (place[:, None] < place) & (size > 0)[..., :, None] & (size > 0)[..., None, :]
        mean = safe_divide(total, size[..., :, None] * size[..., None, :]).masked_fill(~pair, -torch.inf)
        best = mean.flatten(-2).argmax(-1, keepdim=True)
        first, second = best // classes, best % classes
        stays, goes = place == first, place == second
        total = total + stays[..., :, None] * total.gather(-2, second[..., None].expand_as(total[..., :1, :]))
        total = total + stays[..., None, :] * total.gather(-1, second[..., None].expand_as(total[..., :1]))
        size = torch.where(stays, size + size.gather(-1, second), size).masked_fill(goes, 0)
        group = torch.where(group == second, first, group)
    number = (group == place).long().cumsum(-1) - 1
    return number.gather(-1, group)


@checked
def hierarchical_finetuning(
    score: Float[Tensor, "*batch n c"], node_score: Float[Tensor, "*batch n m c"], group: Int[Tensor, "m c"], *, threshold: float = 0.01
) -> Float[Tensor, "*batch n c"]:
    r"""Sends a box down the tree of groups at inference, only into groups of which some class is likely, and lets the leaves decide.

    $$ s_c' = \begin{cases} s_c, & \max_{d \in A_l(c)} p_{l,d} > \theta \text{ for all levels } l \\ 0, & \text{otherwise} \end{cases} $$

    $A_l(c)$ is the group of class $c$ at level $l$, and $p_{l,d}$ what the classifier of the node above it says of class $d$. Most boxes
    are background and are turned away near the root, so that the many models cost little. No gradient reaches `node_score`.

    Args:
        score: $s_c$, of the classifiers at the leaves, one for each class.
        node_score: $p_{l,d}$, in [0, 1], from the root downwards.
        group: number of $A_l(c)$, for each level, any integers, as from `hierarchical_groups` with more and more groups.
        threshold: score $\theta$ above which a group is looked into.

    Returns:
        The scores, 0 for classes whose leaf the box does not reach.
    """
    node_score = widen(node_score.detach())
    first = (group[:, :, None] == group[:, None]).long().argmax(-1)
    index = first.expand(node_score.shape)
    best = torch.zeros_like(node_score).scatter_reduce(-1, index, node_score, "amax", include_self=False)
    reached = (best.gather(-1, index) > threshold).all(-2)
    return torch.where(reached, widen(score), 0)
