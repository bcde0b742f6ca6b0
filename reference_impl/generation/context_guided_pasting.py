"""Context-guided pasting: Dvornik, Mairal and Schmid, ECCV 2018."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from reference_impl.ops.boxes import box_area, box_around, box_center, box_intersection, box_iou, box_size, clip_boxes
from reference_impl.ops.checked import checked
from reference_impl.ops.colour import luminance, scale_saturation, turn_hue
from reference_impl.ops.draw import inverse_cdf
from reference_impl.ops.numerics import safe_divide, safe_log, widen
from reference_impl.ops.select import take
from reference_impl.ops.warp import move_box

__all__ = [
    "ContextNetwork",
    "background_contexts",
    "boxes_beside",
    "candidate_boxes",
    "context_frames",
    "context_guided_pasting",
    "distorted_colours",
    "drawn_places",
    "fitting_instances",
    "jittered_boxes",
    "pasting_candidates",
    "recoloured_instances",
    "scaled_boxes",
    "uncovered",
]

SCALES = 16
LAYERS = 4
TRIES, TRIES_BESIDE = 20, 50
# Brightness, saturation, hue and contrast, in the authors' four orders.
ORDERS = ((0, 1, 2, 3), (1, 0, 3, 2), (3, 2, 0, 1), (2, 1, 3, 0))


@checked
def candidate_boxes(
    image_size: Float[Tensor, "*batch 2"],
    counts: Int[Tensor, "bins bins"],
    limits: Float[Tensor, "2 2"],
    noise: Float[Tensor, "*batch k 4"],
    *,
    smoothing: float = 0.05,
) -> Float[Tensor, "*batch k 4"]:
    r"""Draws boxes of the sizes and shapes that objects have, anywhere in the image: where something might be pasted, or background.

    $$ P(\text{bin}) \propto n + \epsilon $$

    Within a bin, the share of the image's area and the aspect ratio are uniform; the place in the image is uniform, too. No gradient passes
    through.

    Args:
        image_size: width and height in pixels.
        counts: $n$, objects of the training set in each bin, by their share of the area (rows) and their width over height (columns).
        limits: lowest and highest share of the area (first row), and lowest and highest aspect ratio (second row); the bins divide both
            ranges evenly.
        noise: for share, aspect ratio, x and y, uniform in [0, 1).
        smoothing: $\epsilon$, added to each count.

    Returns:
        Boxes within the image. One that would be wider or higher than the image is cut to its width or height.
    """
    image_size, limits, noise = widen(image_size.detach()), widen(limits.detach()), widen(noise)
    bins = counts.shape[-1]
    weight = (counts.flatten().to(noise.dtype) + smoothing).expand(*noise.shape[:-2], bins * bins)
    index, within = inverse_cdf(weight, noise[..., 0])
    step = (limits[:, 1] - limits[:, 0]) / bins
    share = limits[0, 0] + (index // bins + within) * step[0]
    aspect = limits[1, 0] + (index % bins + noise[..., 1]) * step[1]
    area = share * image_size.prod(-1, keepdim=True)
    size = torch.stack((area * aspect, safe_divide(area, aspect)), -1).clamp(min=0).sqrt().minimum(image_size[..., None, :])
    corner = noise[..., 2:] * (image_size[..., None, :] - size)
    return torch.cat((corner, corner + size), -1)


@checked
def background_contexts(
    boxes: Float[Tensor, "*batch m 4"],
    proposals: Float[Tensor, "*batch k 4"],
    valid: Bool[Tensor, "*batch m"] | None = None,
    *,
    max_covered: float = 0.3,
) -> Bool[Tensor, "*batch k"]:
    r"""Which candidates are examples of background for the network: those that cover little of every object.

    $$ \max_i \frac{A(B \cap \bar B_i)}{A(\bar B_i)} < \theta $$

    All other examples are boxes of objects; the authors leave out an object that fills more than 70 % of its image. Their released models
    have three background examples for each object; their code can also make background as frequent as the average class.

    Args:
        boxes: the objects $\bar B_i$ of each image, absolute `(x1, y1, x2, y2)` in pixels.
        proposals: the candidates $B$, as `candidate_boxes` gives them.
        valid: the boxes that are no padding; by default all.
        max_covered: $\theta$.
    """
    covered = _covered(boxes, proposals)
    if valid is not None:
        covered = covered * valid[..., None, :]
    return (covered < max_covered).all(-1)


@checked
def jittered_boxes(
    boxes: Float[Tensor, "*batch k 4"],
    image_size: Float[Tensor, "*batch 2"],
    noise: Float[Tensor, "*batch k g 3"] | None = None,
    *,
    max_scale: float = 1.3,
    max_area: float = 0.7,
) -> Float[Tensor, "*batch k 4"]:
    r"""Enlarges and shifts each box and cuts it off at the border of the image, before it is blanked and framed, in training and use.

    $$ s \sim \mathcal U[1, s_{max}], \qquad w' = s w, \qquad x' - x \sim \mathcal U\big[-\tfrac{s - 1}{2} w', \tfrac{s - 1}{2} w'\big] $$

    for the centre $x$, and likewise in y. No gradient passes through.

    Args:
        boxes: boxes in the image, absolute `(x1, y1, x2, y2)` in pixels.
        image_size: width and height in pixels.
        noise: for scale, x and y of each of `g` tries, uniform in [0, 1); 20 fresh draws by default.
        max_scale: $s_{max}$.
        max_area: $a_{max}$, share of the image's area that the enlarged box must not reach.

    Returns:
        The first try that has less than this area, and that before the cut is narrower and lower than the image; the box itself where no
        try fits.
    """
    boxes, limit = widen(boxes.detach()), widen(image_size.detach())[..., None, None, :]
    noise = boxes.new_empty(*boxes.shape[:-1], TRIES, 3).uniform_() if noise is None else noise.to(boxes.dtype)
    scale = 1 + (max_scale - 1) * noise[..., :1]
    size = scale * box_size(boxes)[..., None, :]
    center = box_center(boxes)[..., None, :] + (noise[..., 1:] - 0.5) * (scale - 1) * size
    seen = clip_boxes(box_around(center, size), limit)
    fits = (size < limit).all(-1) & (box_area(seen) < max_area * limit.prod(-1))
    return _first(seen, fits, boxes)


@checked
def context_frames(
    boxes: Float[Tensor, "*batch k 4"],
    image_size: Float[Tensor, "*batch 2"],
    noise: Float[Tensor, "*batch k 4"] | None = None,
    *,
    min_context: float = 0.3,
) -> Float[Tensor, "*batch k 4"]:
    r"""Draws around each box a neighbourhood that shows at least a given part of the image beside it.

    $$ w_f \sim \mathcal U[\max(w, a), 1], \qquad h_f \sim \mathcal U[\max(h, a / w_f), 1], \qquad a = \theta + w h $$

    with width $w$ and height $h$ of the box as shares of the image's; then the place is uniform among those where the frame contains the
    box. No gradient passes through.

    Args:
        boxes: boxes in the image, absolute `(x1, y1, x2, y2)` in pixels.
        image_size: width and height in pixels.
        noise: for width, height, x and y, uniform in [0, 1); a fresh draw by default.
        min_context: $\theta$, least share of the image that the frame shows beside the box; where a box leaves less, the frame is the whole
            image.
    """
    boxes = widen(boxes.detach())
    scale = image_size.detach().to(boxes.dtype)[..., None, :]
    noise = torch.rand_like(boxes) if noise is None else noise.to(boxes.dtype)
    corner, size = safe_divide(boxes[..., :2], scale), safe_divide(box_size(boxes), scale).clamp(max=1)
    least = (min_context + size.prod(-1)).clamp(max=1)
    width = torch.lerp(size[..., 0].maximum(least), torch.ones_like(least), noise[..., 0])
    height = torch.lerp(size[..., 1].maximum(least / width).clamp(max=1), torch.ones_like(least), noise[..., 1])
    frame = torch.stack((width, height), -1)
    lowest, highest = (corner + size - frame).clamp(min=0), corner.minimum(1 - frame)
    start = torch.lerp(lowest, highest, noise[..., 2:])
    return torch.cat((start * scale, (start + frame) * scale), -1)


@checked
def distorted_colours(
    image: Float[Tensor, "*batch 3 n m"],
    noise: Float[Tensor, "*batch 5"] | None = None,
    *,
    brightness: float = 0.125,
    saturation: float = 0.5,
    hue: float = 0.07,
    contrast: float = 0.5,
) -> Float[Tensor, "*batch 3 n m"]:
    r"""Changes the light and the colours of an image that the network is trained with.

    $$ I + b, \qquad s\, \mathrm{sat}(I), \qquad \mathrm{hue}(I) + h, \qquad \mu + c\, (I - \mu) $$

    for brightness, saturation, hue and contrast, with the mean $\mu$ of each channel. The four follow each other in this order, or as
    saturation, brightness, contrast, hue; or contrast, hue, brightness, saturation; or hue, saturation, contrast, brightness. At the end
    values are cut to [0, 1]. No gradient passes through.

    Args:
        image: red, green and blue in [0, 1].
        noise: for the order and for $b$, $s$, $h$, $c$, uniform in [0, 1); a fresh draw by default.
        brightness: $b$ lies at most this far from 0.
        saturation: $s$ lies at most this far from 1.
        hue: $h$ lies at most this far from 0, as a share of the circle.
        contrast: $c$ lies at most this far from 1.
    """
    image = widen(image.detach())
    noise = image.new_empty(*image.shape[:-3], 5).uniform_() if noise is None else noise.to(image.dtype)
    order = (len(ORDERS) * noise[..., :1]).long()[..., None, None, None].expand(*image.shape[:-3], 1, *image.shape[-3:])
    b, s, h, c = (2 * noise[..., 1:] - 1).unbind(-1)
    for steps in zip(*ORDERS, strict=True):
        changed = (
            image + brightness * b[..., None, None, None],
            scale_saturation(image, 1 + saturation * s),
            turn_hue(image, hue * h),
            torch.lerp(image.mean((-2, -1), keepdim=True), image, 1 + contrast * c[..., None, None, None]),
        )
        image = torch.stack([changed[step] for step in steps], -4).gather(-4, order).squeeze(-4)
    return image.clamp(0, 1)


class ContextNetwork(nn.Module):
    r"""Looks at the surroundings of a box, never at the box itself, and says which class belongs there.

    The inside of the box is blanked, the frame around it is cut out and enlarged, and a network classifies it: all classes and background,
    which comes last. It is trained by plain cross entropy, on `distorted_colours`. The authors' network is a ResNet-50 with weights of
    ImageNet, here it is four convolutions. They also mirror half of the frames.

    Args:
        classes: number $C$ of foreground classes.
        channels: $C_{in}$ of the image, 3 for colours.
        width: $C_1$, channels of the first convolution; each has twice as many as the one before.
        size: $d$, height and width of the enlarged frame in pixels.
    """

    def __init__(self, classes: int, *, channels: int = 3, width: int = 32, size: int = 300) -> None:
        super().__init__()
        self.size = size
        self.layers = nn.ModuleList(
            nn.Conv2d(width * 2 ** (i - 1) if i else channels, width * 2**i, 3, stride=2, padding=1) for i in range(LAYERS)
        )
        self.classifier = nn.Linear(width * 2 ** (LAYERS - 1), classes + 1)

    @checked
    def forward(
        self, image: Float[Tensor, "b c n m"], boxes: Float[Tensor, "b k 4"], frames: Float[Tensor, "b k 4"]
    ) -> Float[Tensor, "b k classes"]:
        """Images whose mean colour is 0, boxes in them, and the frames around these -> logits of each box."""
        seen = image[:, None].masked_fill(_inside(boxes, *image.shape[-2:])[:, :, None], 0)
        frames = widen(frames)
        whole = torch.cat((torch.zeros_like(frames[..., :2]), torch.full_like(frames[..., 2:], self.size)), -1)
        features = move_box(seen, frames, whole, height=self.size, width=self.size).to(image.dtype).flatten(0, 1)
        for layer in self.layers:
            features = layer(features).relu()
        logits: Tensor = self.classifier(features.mean((-2, -1))).unflatten(0, boxes.shape[:2])
        return logits


@checked
def pasting_candidates(
    logits: Float[Tensor, "*batch k c"],
    boxes: Float[Tensor, "*batch k 4"],
    image_size: Float[Tensor, "*batch 2"],
    *,
    threshold: float = 0.7,
    min_area: float = 0.007,
    max_area: float = 0.5,
) -> tuple[Int[Tensor, "*batch k"], Float[Tensor, "*batch k"]]:
    r"""Keeps the places where the context speaks for one class.

    $$ \hat c = \arg\max_{c < C} \mathrm{softmax}(x)_c, \qquad \mathrm{softmax}(x)_{\hat c} > \theta $$

    No gradient passes through.

    Args:
        logits: $x$ of the `ContextNetwork`, background last.
        boxes: the boxes that it was asked about, absolute `(x1, y1, x2, y2)` in pixels. The authors ask about 200 for each image.
        image_size: width and height in pixels.
        threshold: $\theta$, probability that the class must exceed.
        min_area: $a_{min}$, smallest share of the image's area that a box must exceed.
        max_area: $a_{max}$, share that it must not reach.

    Returns:
        The class that may be pasted there, $C$ where none may, and its score, 0 where none may.
    """
    score, label = widen(logits.detach()).softmax(-1)[..., :-1].max(-1)
    area, image_area = box_area(boxes.detach()), widen(image_size.detach()).prod(-1, keepdim=True)
    kept = (score > threshold) & (area > min_area * image_area) & (area < max_area * image_area)
    return label.where(kept, logits.shape[-1] - 1), score.where(kept, 0)


@checked
def fitting_instances(
    boxes: Float[Tensor, "*batch k 4"],
    labels: Int[Tensor, "*batch k"],
    reference: Float[Tensor, "*batch m 4"],
    reference_labels: Int[Tensor, "*batch m"],
    image_size: Float[Tensor, "*batch 2"],
    noise: Float[Tensor, "*batch k 4"] | None = None,
    *,
    min_iou: float = 0.7,
    smallest: float = 0.5,
    largest: float = 2.0,
    jitter: float = 0.2,
) -> tuple[Int[Tensor, "*batch k"], Float[Tensor, "*batch k 4"]]:
    r"""Picks for each place an instance of its class, a scale at which the instance fills the box, and a small shift.

    $$ s \in \{s_1, \dots, s_{16}\}: \quad \mathrm{IoU}\big([0, 0, s W_j, s H_j], [0, 0, w, h]\big) > \theta $$

    The instance is drawn uniformly among those that fit at some scale, the scale uniformly between the smallest and the largest one
    that fits, and the shift uniformly among those that keep the box in the image. No gradient passes through.

    Args:
        boxes: the places, absolute `(x1, y1, x2, y2)` in pixels, with width $w$ and height $h$.
        labels: the class to paste there, as `pasting_candidates` gives it.
        reference: tight boxes of the instances in their own images, with width $W_j$ and height $H_j$.
        reference_labels: their classes.
        image_size: width and height in pixels of the image with the places.
        noise: for instance, scale, x and y, uniform in [0, 1); a fresh draw by default.
        min_iou: $\theta$, IoU that must be exceeded.
        smallest: $s_1$; the scales are evenly spaced.
        largest: $s_{16}$.
        jitter: $\delta$, how far the box may be shifted, as a share of its width and height.

    Returns:
        The index of the instance and the box that it is to fill, which may reach beyond the image, so its coordinates may be negative.
        Where none fits, -1 and a box without area.
    """
    boxes, size = widen(boxes.detach()), pad(box_size(widen(reference.detach())), (0, 0, 0, 1))
    noise = torch.rand_like(boxes) if noise is None else noise.to(boxes.dtype)
    scales = torch.linspace(smallest, largest, SCALES, device=boxes.device, dtype=boxes.dtype)
    scaled = scales[:, None] * size[..., None, :, None, :]
    wanted = box_size(boxes)[..., None, None, :]
    shared = wanted.minimum(scaled).prod(-1)
    fits = safe_divide(shared, wanted.prod(-1) + scaled.prod(-1) - shared) > min_iou
    fits = fits & (pad(reference_labels, (0, 1), value=-1)[..., None, :] == labels[..., None])[..., None]
    index, _ = inverse_cdf(fits.any(-1).to(boxes.dtype), noise[..., :1])
    fits = fits.gather(-2, index[..., None].expand(*index.shape, SCALES)).squeeze(-2)
    found, index = fits.any(-1), index.squeeze(-1)
    lowest = scales.where(fits, torch.inf).amin(-1).where(found, 0)
    highest = scales.where(fits, 0).amax(-1)

    limit = image_size.detach().to(boxes.dtype)[..., None, :]
    reach = jitter * box_size(boxes)
    left, right = (-boxes[..., :2]).maximum(-reach).clamp(max=0), (limit - boxes[..., 2:]).minimum(reach).clamp(min=0)
    center = box_center(boxes) + torch.lerp(left, right, noise[..., 2:])
    filled = torch.lerp(lowest, highest, noise[..., 1])[..., None] * size.gather(-2, index[..., None].expand(*index.shape, 2))
    return index.where(found, -1), box_around(center, filled) * found[..., None]


@checked
def drawn_places(
    score: Float[Tensor, "*batch k"], noise: Float[Tensor, "*batch k"] | None = None, *, count: int = 2
) -> Bool[Tensor, "*batch k"]:
    r"""Draws the places that are used, one after the other, each with a probability in proportion to its score among those that are left.

    $$ P(i) = \frac{s_i}{\sum_{j \text{ left}} s_j} $$

    This is the same as taking the places with the largest $u_i^{1 / s_i}$. No gradient passes through.

    Args:
        score: $s_i \ge 0$; a place of score 0 is never used: give 0 to a place for which there is no instance.
        noise: $u_i$, uniform in [0, 1); a fresh draw by default.
        count: $N$, how many places; the authors use one or two in an image, at random.
    """
    score = widen(score.detach())
    noise = torch.rand_like(score) if noise is None else noise.to(score.dtype)
    return take(safe_divide(safe_log(noise), score), score > 0, count)


@checked
def recoloured_instances(
    source: Float[Tensor, "*batch k 3 n m"],
    boxes: Float[Tensor, "*batch k 4"],
    noise: Float[Tensor, "*batch k 3"] | None = None,
    *,
    strength: float = 0.5,
) -> Float[Tensor, "*batch k 3 n m"]:
    r"""Changes contrast, colour and brightness of instances before they are pasted, each of the three half of the time.

    $$ \bar\ell + f_1 (S - \bar\ell), \qquad \ell + f_2 (S - \ell), \qquad f_3 S $$

    with the luminance $\ell$ of each pixel and its mean $\bar\ell$ over the box. After each step values are cut to [0, 1].

    Args:
        source: an image for each instance, red, green and blue in [0, 1].
        boxes: the tight box around it, `(x1, y1, x2, y2)`; pixels with their centre in it count.
        noise: for each of the three, uniform in [0, 1), where less than 1/2 changes nothing; a fresh draw by default.
        strength: how far the factors $f$ are from 1 at most.
    """
    source = widen(source)
    noise = source.new_empty(*boxes.shape[:-1], 3).uniform_() if noise is None else noise.to(source.dtype)
    factor = torch.where(noise < 0.5, 1, 1 + strength * (4 * noise - 3))
    contrast, colour, brightness = factor[..., None, None, None].unbind(-4)
    light, inside = luminance(source), _inside(boxes, *source.shape[-2:])[..., None, :, :].to(source.dtype)
    mean = safe_divide((light * inside).sum((-2, -1), keepdim=True), inside.sum((-2, -1), keepdim=True))
    source = torch.lerp(mean, source, contrast).clamp(0, 1)
    source = torch.lerp(luminance(source), source, colour).clamp(0, 1)
    return (source * brightness).clamp(0, 1)


@checked
def scaled_boxes(
    boxes: Float[Tensor, "*batch k 4"], noise: Float[Tensor, "*batch k"] | None = None, *, min_scale: float = 1.2, max_scale: float = 1.6
) -> Float[Tensor, "*batch k 4"]:
    r"""Where an object goes that is enlarged in place, so that it covers itself. No network has to be asked.

    $$ w' = s w, \qquad h' = s h, \qquad s \sim \mathcal U[s_0, s_1] $$

    `context_guided_pasting` does it, with the image as source and these boxes as target; each then replaces its old box in the annotation.
    No gradient passes through.

    Args:
        boxes: tight boxes of the objects, absolute `(x1, y1, x2, y2)` in pixels.
        noise: uniform in [0, 1); a fresh draw by default.
        min_scale: $s_0$; for `boxes_beside` 1/2.
        max_scale: $s_1$; for `boxes_beside` 2.

    Returns:
        Boxes with the same centres. They may reach beyond the image, so a coordinate may be negative.
    """
    boxes = widen(boxes.detach())
    noise = torch.rand_like(boxes[..., 0]) if noise is None else noise.to(boxes.dtype)
    return box_around(box_center(boxes), (min_scale + (max_scale - min_scale) * noise)[..., None] * box_size(boxes))


@checked
def boxes_beside(
    boxes: Float[Tensor, "*batch k 4"],
    image_size: Float[Tensor, "*batch 2"],
    noise: Float[Tensor, "*batch k g 2"] | None = None,
    *,
    reach: float = 0.25,
    min_iou: float = 0.2,
    max_iou: float = 0.7,
    min_inside: float = 0.35,
) -> Float[Tensor, "*batch k 4"]:
    r"""Where copies of objects go: beside the objects themselves. No network has to be asked.

    $$ x' - x \sim \mathcal U\big[-(\tfrac12 + r) w, (\tfrac12 + r) w\big], \qquad \theta_0 < \mathrm{IoU}(B' \cap I, B) < \theta_1 $$

    for the centre $x$, and likewise in y, with the copy's box $B'$ and the image $I$. `context_guided_pasting` does it, with the image as
    source and these boxes as target; an old box stays in the annotation if it is `uncovered`. No gradient passes through.

    Args:
        boxes: boxes $B$ around the objects, absolute `(x1, y1, x2, y2)` in pixels, as large as the copies are to be: see `scaled_boxes`.
        image_size: width and height in pixels.
        noise: for x and y of each of `g` tries, uniform in [0, 1); 50 fresh draws by default.
        reach: $r$, how far beyond a side of the box the copy's centre may lie, in widths and heights of the box.
        min_iou: $\theta_0$, IoU of copy and object that must be exceeded.
        max_iou: $\theta_1$, IoU of the two that must not be reached.
        min_inside: $a_{in}$, share of a copy's area that lies in the image; it must be exceeded.

    Returns:
        The first try that fits, which may reach beyond the image, so a coordinate may be negative; a box without area where none does.
    """
    boxes, limit = widen(boxes.detach()), widen(image_size.detach())[..., None, None, :]
    noise = boxes.new_empty(*boxes.shape[:-1], TRIES_BESIDE, 2).uniform_() if noise is None else noise.to(boxes.dtype)
    own = boxes[..., None, :]
    copy = box_around(box_center(own) + (2 * noise - 1) * (0.5 + reach) * box_size(own), box_size(own))
    seen = clip_boxes(copy, limit)
    iou = box_iou(seen, own)
    fits = (iou > min_iou) & (iou < max_iou) & (box_area(seen) > min_inside * box_area(own))
    return _first(copy, fits, torch.zeros_like(boxes))


@checked
def context_guided_pasting(
    image: Float[Tensor, "*batch c n m"],
    source: Float[Tensor, "*batch k c n m"],
    mask: Bool[Tensor, "*batch k n m"],
    boxes: Float[Tensor, "*batch k 4"],
    target: Float[Tensor, "*batch k 4"],
    alpha: Float[Tensor, "*batch k n m"] | None = None,
) -> tuple[Float[Tensor, "*batch c n m"], Float[Tensor, "*batch k 4"]]:
    r"""Pastes objects where their context asks for them, so that new positives look like ones that might have been there.

    $$ I \leftarrow (1 - \alpha_k)\, I + \alpha_k\, S_k \qquad \text{for } k = 1, 2, \dots $$

    with the object's box $S_k$ resized bilinearly to the one it is to fill. This is the last step: the `ContextNetwork` is asked about
    `candidate_boxes`, which are `jittered_boxes` in `context_frames`; `pasting_candidates`, `fitting_instances` and `drawn_places` choose
    what goes where, and `recoloured_instances` may change what that is; what is then still annotated is `uncovered`. A later object hides
    an earlier one. As $\alpha$ the authors take, at random, the mask or the mask after a Gaussian or a box blur.

    Args:
        image: the scene, `n` rows of `m` pixels.
        source: an image for each object; pad a smaller one.
        mask: the pixels of the object in it.
        boxes: the tight box around them, `(x1, y1, x2, y2)`, where pixel `i` reaches from `i` to `i + 1`.
        target: the box to fill, as `fitting_instances` gives it; one without area pastes nothing.
        alpha: how much of the object a pixel has, in [0, 1], in `source`; by default the mask.

    Returns:
        The image, and the box of each object, cut off at the border of the image.

    Raises:
        ValueError: the shapes do not fit together.
    """
    image, source = widen(image), widen(source)
    alpha = mask.to(image.dtype) if alpha is None else widen(alpha)
    layers = move_box(torch.cat((source, alpha[..., None, :, :]), -3), boxes, target)
    content, opacity = layers[..., :-1, :, :], layers[..., -1:, :, :]
    below = pad((1 - opacity).flip(-4).cumprod(-4).flip(-4), (0, 0, 0, 0, 0, 0, 0, 1), value=1.0)
    pasted = image * below[..., 0, :, :, :] + (opacity * content * below[..., 1:, :, :, :]).sum(-4)
    x, y = widen(target)[..., 0::2].clamp(0, mask.shape[-1]), widen(target)[..., 1::2].clamp(0, mask.shape[-2])
    return pasted, torch.stack((x, y), -1).flatten(-2)


@checked
def uncovered(
    boxes: Float[Tensor, "*batch m 4"], target: Float[Tensor, "*batch k 4"], *, max_covered: float = 0.7
) -> Bool[Tensor, "*batch m"]:
    r"""Which objects of the scene are still annotated: those whose boxes no pasted one covers for the most part.

    $$ \max_k \frac{A(\bar B \cap B_k)}{A(\bar B)} < \theta $$

    Args:
        boxes: the objects $\bar B$ that were there, absolute `(x1, y1, x2, y2)` in pixels.
        target: the boxes $B_k$ of the pasted ones.
        max_covered: $\theta$.
    """
    return (_covered(boxes, target) < max_covered).all(-2)


def _covered(boxes: Tensor, others: Tensor) -> Tensor:
    """Which share of each box each other one covers, `[*batch k m]`."""
    shared = box_intersection(others[..., :, None, :], boxes[..., None, :, :])
    return safe_divide(shared, box_area(boxes)[..., None, :])


def _inside(boxes: Tensor, n: int, m: int) -> Tensor:
    """Which of `n` rows of `m` pixels have their centre in each box, `[*batch k n m]`."""
    y, x = (torch.arange(side, device=boxes.device) + 0.5 for side in (n, m))
    x1, y1, x2, y2 = boxes[..., None].unbind(-2)
    return ((y >= y1) & (y < y2))[..., :, None] & ((x >= x1) & (x < x2))[..., None, :]


def _first(tries: Tensor, fits: Tensor, otherwise: Tensor) -> Tensor:
    """The first of `g` tries that fits, and another box where none does, `[*batch k 4]`."""
    missed = (~fits).long().cumprod(-1).sum(-1)[..., None, None]
    return torch.cat((tries, otherwise[..., None, :]), -2).gather(-2, missed.expand(*missed.shape[:-1], 4)).squeeze(-2)
