"""Progressive and selective instance-switching (PSIS): Wang, Wang, Yang, Zhang and Zuo, 2019."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from reference_impl.ops.boxes import box_area, box_size
from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import entropy_of_class, safe_divide, widen
from reference_impl.ops.ranks import descending_rank

__all__ = ["carried_boxes", "class_balanced_loss", "instance_switching", "switching_candidates", "switching_weight"]


@checked
def instance_switching(
    image: Float[Tensor, "*batch 2 c n m"],
    mask: Bool[Tensor, "*batch 2 n m"],
    boxes: Float[Tensor, "*batch 2 4"],
    alpha: Float[Tensor, "*batch 2 n m"] | None = None,
) -> Float[Tensor, "*batch 2 c n m"]:
    r"""Makes two new images of two old ones: two objects of the same class change places, so each appears where its class belongs.

    $$ I_1 \leftarrow (1 - \alpha_{2 \to 1})\, I_1 + \alpha_{2 \to 1}\, I_{2 \to 1}, \qquad
    I_2 \leftarrow (1 - \alpha_{1 \to 2})\, I_2 + \alpha_{1 \to 2}\, I_{1 \to 2} $$

    $2 \to 1$ resizes the second object's box to the first one's, bilinearly. As each object takes the other's box and both have one class,
    the annotations stay as they were, except for what lies within a box (`carried_boxes`). What the new object does not cover remains of
    the old one, which is why only objects of similar shape are switched (`switching_candidates`). The authors train with the new images
    beside the old ones. No gradient passes through the boxes.

    Args:
        image: both images, `n` rows of `m` pixels; pad the smaller one.
        mask: the pixels of the object in each.
        boxes: the box around it, `(x1, y1, x2, y2)`, in whole pixels; pixel `i` reaches from `i` to `i + 1`.
        alpha: $\alpha$, how much of a pixel is the object, in [0, 1], as after a blur; by default the mask.

    Returns:
        Both images with the other's object.

    Raises:
        ValueError: the shapes do not fit together.
    """
    image, boxes = widen(image), widen(boxes.detach())
    alpha = mask.to(image.dtype) if alpha is None else widen(alpha)
    layers = torch.cat((image, alpha[..., None, :, :]), -3)
    n, m = mask.shape[-2:]
    x, inside_x, blend_x = _source(boxes[..., 0::2], m)
    y, inside_y, blend_y = _source(boxes[..., 1::2], n)
    index = y[..., :, None, :, None] * m + x[..., None, :, None, :]
    weight = blend_y[..., :, None, :, None] * blend_x[..., None, :, None, :]
    other = layers.flip(-4).flatten(-2)
    spots = other.gather(-1, index.flatten(-4)[..., None, :].expand(*other.shape[:-1], -1)).view(*other.shape[:-1], n, m, 4)
    content = (spots * weight.flatten(-2)[..., None, :, :, :]).sum(-1)
    opacity = content[..., -1:, :, :] * (inside_y[..., :, None] & inside_x[..., None, :])[..., None, :, :]
    return image * (1 - opacity) + content[..., :-1, :, :] * opacity


def _source(side: Tensor, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each pixel along one axis: two neighbours in the other image, whether it lies in the box, and the neighbours' weights."""
    center = torch.arange(pixels, device=side.device, dtype=side.dtype) + 0.5
    start, end = side[..., :1], side[..., 1:]
    inside = (center > start) & (center < end)
    other_start, other_end = start.flip(-2), end.flip(-2)
    place = other_start + safe_divide((center - start) * (other_end - other_start), end - start) - 0.5
    place = place.maximum(other_start).minimum(other_end - 1).clamp(0, max(pixels - 1, 0))
    low = place.floor()
    share = place - low
    neighbours = torch.stack((low, (low + 1).clamp(max=max(pixels - 1, 0))), -1).long()
    return neighbours, inside, torch.stack((1 - share, share), -1)


@checked
def carried_boxes(
    boxes: Float[Tensor, "*batch n 4"], reference: Float[Tensor, "*batch 4"], target: Float[Tensor, "*batch 4"]
) -> tuple[Float[Tensor, "*batch n 4"], Bool[Tensor, "*batch n"]]:
    r"""Takes along what lies within a switched object, such as the tie of a person, so that it is annotated in the other image, too.

    $$ p' = t + \frac{s_t}{s_r}\,(p - r) $$

    for both corners $p$ of a box that lies within, with corners $r, t$ and sizes $s_r, s_t$ of the switched boxes. The authors keep the
    annotation of such an object in its own image as well.

    Args:
        boxes: all other objects of an image, absolute `(x1, y1, x2, y2)` in pixels.
        reference: box of the switched object in this image.
        target: box that it fills in the other image.

    Returns:
        The boxes in the other image, and which of them are there: those that lie within `reference` and touch no side of it. The others
        are (0, 0, 0, 0). Coordinates may be negative.
    """
    boxes, reference, target = widen(boxes), widen(reference)[..., None, :], widen(target)[..., None, :]
    scale = safe_divide(box_size(target), box_size(reference))
    start, end = ((corner - reference[..., :2]) * scale + target[..., :2] for corner in (boxes[..., :2], boxes[..., 2:]))
    inside = (boxes[..., :2] > reference[..., :2]).all(-1) & (boxes[..., 2:] < reference[..., 2:]).all(-1)
    return torch.cat((start, end), -1) * inside[..., None], inside


@checked
def switching_candidates(
    boxes: Float[Tensor, "*batch n 4"],
    labels: Int[Tensor, "*batch n"],
    picture: Int[Tensor, "*batch n"],
    shape: Bool[Tensor, "*batch n k k"],
    *,
    min_ratio: float = 0.3,
    max_ratio: float = 3.0,
    max_difference: float = 0.3,
) -> Bool[Tensor, "*batch n n"]:
    r"""Which objects may change places: of one class, from two images, of similar size and shape.

    $$ r_{min} \le \frac{A(B_i)}{A(B_j)} \le r_{max}, \qquad 0 < |S_i \oplus S_j| \le \theta \min(|S_i|, |S_j|) $$

    Args:
        boxes: boxes $B$ of the objects, absolute `(x1, y1, x2, y2)` in pixels.
        labels: their classes.
        picture: index of the image each one is in.
        shape: masks $S$, cut out along the box and resized to a grid that all have in common.
        min_ratio: $r_{min}$, smallest ratio of the box areas.
        max_ratio: $r_{max}$, largest one.
        max_difference: $\theta$, how many pixels of the grid may differ, as a share of the smaller mask.

    Returns:
        True at `i, j` where object `i` may be switched with object `j`. As the ratios 0.3 and 3 are not inverse to each other, `j, i` may
        be False.

    Raises:
        ValueError: the shapes do not fit together.
    """
    area = box_area(boxes.detach())
    first, second = area[..., :, None], area[..., None, :]
    similar = (first >= min_ratio * second) & (first <= max_ratio * second) & (second > 0)
    flat = shape.flatten(-2).to(area.dtype)
    different = torch.cdist(flat, flat, p=1.0).to(area.dtype)
    count = flat.sum(-1)
    smaller = torch.minimum(count[..., :, None], count[..., None, :])
    alike = (different > 0) & (different <= max_difference * smaller)
    return similar & alike & (labels[..., :, None] == labels[..., None, :]) & (picture[..., :, None] != picture[..., None, :])


@checked
def switching_weight(
    candidate: Bool[Tensor, "*batch n n"], labels: Int[Tensor, "*batch n"], performance: Float[Tensor, "*batch c"]
) -> Float[Tensor, "*batch n n"]:
    r"""How often each pair is to be switched: the worse a class is detected now, the more new images it gets.

    $$ p_{ij} = \frac{1}{N_c} \cdot \frac{r_c}{\sum_{c'} r_{c'}} $$

    $r_c$ is the place of the pair's class by performance, 1 for the best and $C$ for the worst; $N_c$ is the number of its candidates, and
    the sum runs over the classes that have some. A new performance, measured while the detector is trained, gives new weights. No gradient
    passes through.

    Args:
        candidate: which pairs may be switched.
        labels: class of each object.
        performance: of each class, as its AP; only the order counts.

    Returns:
        Weights with sum 1 (0 without candidates), by which pairs can be drawn; multiplied by a number of images, they say how many each
        pair should yield.

    Raises:
        ValueError: the shapes do not fit together.
    """
    performance = widen(performance.detach())
    place = pad((descending_rank(performance) + 1).to(performance.dtype), (0, 1))
    count = torch.zeros_like(place, dtype=torch.int64).scatter_add(-1, labels, candidate.sum(-1))
    share = place * (count > 0)
    weight = safe_divide(safe_divide(share, share.sum(-1, keepdim=True)), count.to(share.dtype))
    return weight.gather(-1, labels)[..., None] * candidate


@checked
def class_balanced_loss(
    logits: Float[Tensor, "*batch n c"], labels: Int[Tensor, "*batch n"], counts: Int[Tensor, "c"], *, beta: float = 0.9999
) -> Float[Tensor, "*batch n"]:
    r"""Cross entropy that gives a class more weight the fewer objects it has; the authors use it together with the new images.

    $$ L = -w_y \ln \frac{e^{x_y}}{\sum_c e^{x_c}}, \qquad w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}, \quad
    \frac{1}{C + 1} \sum_c w_c = 1 $$

    With $\beta = 0$ all classes weigh alike; the closer it is to 1, the closer $w_c$ is to $1 / n_c$, up to a factor.

    Args:
        logits: $x$, one for each of $C$ foreground classes and, last, the background.
        labels: $y$; the last class is background.
        counts: $n_c$, objects in the training set. A class without any has weight 0. For background the authors take three times the
            mean of the foreground classes.
        beta: $\beta$ in [0, 1).

    Returns:
        One loss for each region.

    Raises:
        ValueError: the shapes do not fit together.
    """
    logits, labels = widen(logits), labels.long().clamp(0, logits.shape[-1] - 1)
    weight = safe_divide((counts > 0).double(), 1 - beta ** counts.double())
    weight = safe_divide(weight, weight.mean()).to(logits.dtype)
    return entropy_of_class(logits.log_softmax(-1), labels) * weight[labels]
