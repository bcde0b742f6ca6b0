"""AttractioNet, attend-refine-repeat with in-out localisation: Gidaris and Komodakis, BMVC 2016."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad, relu, softplus

from reference_impl.ops.boxes import box_center, box_iou, box_size, clip_boxes
from reference_impl.ops.checked import checked
from reference_impl.ops.nms import nms
from reference_impl.ops.numerics import safe_divide, widen
from reference_impl.ops.roi_align import roi_align
from reference_impl.ops.select import take

__all__ = ["AttractioNet", "in_out_boxes", "in_out_loss", "in_out_targets", "multi_threshold_nms"]

LEAST = math.log(1e-4)
# IoU above which a box is suppressed, and how many boxes there are at most after this and all stricter thresholds.
STEPS = ((0.95, 2000), (0.9, 1000), (0.85, 400), (0.8, 200), (0.75, 100), (0.65, 40), (0.6, 20), (0.55, 10))
SEED_SHAPES = (
    *((16, 16), (32, 16), (16, 32), (32, 32), (50, 25), (25, 50), (50, 50), (72, 36), (36, 72), (72, 72), (96, 48), (48, 96), (96, 96)),
    *((128, 64), (64, 128), (128, 128), (192, 96), (96, 192), (192, 192), (256, 128), (128, 256), (256, 256), (384, 192), (192, 384)),
    (384, 384),
)


@checked
def in_out_targets(
    proposals: Float[Tensor, "*batch n 4"], boxes: Float[Tensor, "*batch n 4"], *, context: float = 1.8, bins: int = 28
) -> tuple[Bool[Tensor, "*batch n 2 bins"], Bool[Tensor, "*batch n 2 2 bins"]]:
    r"""Describes where an object lies in the search region of a box: which columns and which rows are inside it.

    $$ t_{x,i} = [\,a \le i < b\,], \qquad a = \mathrm{round}\left(M\, \frac{x_1 - r_1}{r_2 - r_1}\right), \qquad
    b = \mathrm{round}\left(M\, \frac{x_2 - r_1}{r_2 - r_1}\right) $$

    for the columns, where the object reaches from $x_1$ to $x_2$; likewise for the rows. The search region, from $r_1$ to $r_2$, is the
    box, enlarged around its centre, and is divided into $M$ columns and $M$ rows. An object that lies beyond the region, or is thinner than
    a column, still has one column. No gradient passes through.

    Args:
        proposals: the boxes to refine, absolute `(x1, y1, x2, y2)` in pixels.
        boxes: the object of each, the same.
        context: $\gamma$, by which factor a box is enlarged.
        bins: $M$, number of columns and of rows.

    Returns:
        Which columns, and which rows, are inside the object; and, for columns and for rows, which is its first and which its last.
    """
    start, length = _region(proposals.detach(), context)
    edges = widen(boxes.detach()).reshape(*boxes.shape[:-1], 2, 2).mT - start[..., None]
    cells = safe_divide(bins * edges, length[..., None].expand_as(edges)).round()
    low = cells[..., :1].clamp(0, bins - 1)
    high = cells[..., 1:].clamp(max=bins).maximum(low + 1)
    cell = torch.arange(bins, device=boxes.device)
    return (cell >= low) & (cell < high), torch.stack((cell == low, cell == high - 1), -2)


@checked
def in_out_loss(
    logits: Float[Tensor, "*batch n 2 bins"],
    inside: Bool[Tensor, "*batch n 2 bins"],
    border_logits: Float[Tensor, "*batch n 2 2 bins"] | None = None,
    borders: Bool[Tensor, "*batch n 2 2 bins"] | None = None,
) -> Float[Tensor, "*batch n"]:
    r"""Cross entropy of every column and row, in place of errors of four coordinates.

    $$ L = \frac{1}{2 M} \sum_{i=1}^M \mathrm{BCE}(p_{x,i}, t_{x,i}) + \mathrm{BCE}(p_{y,i}, t_{y,i}) $$

    With borders, the mean is over six lists of $M$ numbers instead of two: inside, first and last, for columns and for rows. In the list of
    first columns one is true and weighs $M / 2$, and the others weigh $M / (2 M - 2)$ each, so that both kinds have the same weight;
    likewise for the other lists of borders. The authors train boxes that have an IoU of 0.4 or more with an object.

    Args:
        logits: of the columns and of the rows to be inside the object.
        inside: whether they are.
        border_logits: of the columns and of the rows to be its first, and to be its last; both are left out, or neither.
        borders: whether they are.

    Returns:
        Loss of each box, >= 0.
    """
    logits = widen(logits)
    loss = softplus(torch.where(inside, -logits, logits)).mean(-1)
    if border_logits is not None and borders is not None:
        border_logits, bins = widen(border_logits), logits.shape[-1]
        entropy = softplus(torch.where(borders, -border_logits, border_logits))
        of_borders = torch.where(borders, entropy * (bins / 2), entropy * (bins / max(2 * bins - 2, 1))).mean(-1)
        loss = torch.cat((loss, of_borders.flatten(-2)), -1)
    return loss.mean(-1)


@checked
def in_out_boxes(
    proposals: Float[Tensor, "*batch n 4"],
    logits: Float[Tensor, "*batch n 2 bins"],
    border_logits: Float[Tensor, "*batch n 2 2 bins"] | None = None,
    *,
    context: float = 1.8,
) -> Float[Tensor, "*batch n 4"]:
    r"""Moves each box to where it is most likely, if columns and rows are inside it with the given probabilities.

    $$ (a, b) = \arg\max_{a < b} \sum_{i=a}^{b-1} \ln p_i + \sum_{i < a \text{ or } i \ge b} \ln (1 - p_i)
    = \arg\max_{a < b} \sum_{i=a}^{b-1} \ln \frac{p_i}{1 - p_i} $$

    With borders, $\ln (p / (1 - p))$ of column $a$ being the first and of column $b - 1$ being the last are added. No probability counts as
    less than 0.0001. The columns and the rows are independent. Of all pairs $a < b$ the best is found with running sums and one running
    maximum, in time $O(M)$. No gradient passes through.

    Args:
        proposals: the boxes to refine, absolute `(x1, y1, x2, y2)` in pixels.
        logits: of $p$, for columns and rows of the search region.
        border_logits: of the columns and of the rows to be the first, and to be the last, of the object; by default they do not count.
        context: $\gamma$, by which factor a box is enlarged.

    Returns:
        The refined boxes. Coordinates may be negative.
    """
    start, length = _region(proposals.detach(), context)
    bins = logits.shape[-1]
    sums = pad(_odds(logits).cumsum(-1), (1, 0))
    first, last = -sums[..., :-1], sums[..., 1:]
    if border_logits is not None:
        of_borders = _odds(border_logits)
        first, last = first + of_borders[..., 0, :], last + of_borders[..., 1, :]
    best, where = first.cummax(-1)
    end = (best + last).argmax(-1, keepdim=True)
    edges = torch.cat((where.gather(-1, end), end + 1), -1).to(start.dtype)
    return (start[..., None] + length[..., None] * edges / bins).mT.flatten(-2)


@checked
def multi_threshold_nms(
    boxes: Float[Tensor, "*batch n 4"], scores: Float[Tensor, "*batch n"], valid: Bool[Tensor, "*batch n"] | None = None
) -> tuple[Bool[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
    r"""Orders proposals so that the first few lie far apart, and the many after them fill up the gaps.

    Ten boxes that survive suppression at IoU 0.55 come first, then survivors of 0.6 until there are 20, and so on to 0.95 and 2000. No
    gradient passes through.

    Args:
        boxes: absolute `(x1, y1, x2, y2)` in pixels.
        scores: in [0, 1].
        valid: the boxes that take part; by default all.

    Returns:
        Which boxes are kept, and their new scores: the old ones, with 7 added to those that come first, 6 to the next, and so on; 0 for
        the others.
    """
    boxes, scores = widen(boxes.detach()), widen(scores.detach())
    (strictest, most), *others = STEPS
    left = nms(boxes, scores, valid, limit=most, threshold=strictest)
    survivors = [left, *(nms(boxes, scores, left, limit=most, threshold=threshold) for threshold, _ in others)]
    kept, order = torch.zeros_like(left), torch.zeros_like(scores)
    for i in range(len(STEPS) - 1, -1, -1):
        new = take(scores, survivors[i] & ~kept, (STEPS[i][1] - kept.sum(-1, keepdim=True)).clamp(min=0))
        kept, order = kept | new, torch.where(new, scores + i, order)
    return kept, order


class AttractioNet(nn.Module):
    r"""Says how likely a box holds some object, and where in its surroundings the object lies; any object, of no class in particular.

    For the place, the features of the search region go through two convolutions. The columns are then predicted from the maximum over each
    column of cells, the rows from the maximum over each row.

    `propose` starts from boxes spread evenly over the image, `seeds`. It scores them, keeps the best that are no duplicates, and refines
    these; then it scores and refines the result, and so on, so that attention moves to where objects are. A box that has hardly moved is
    finished.

    Args:
        channels: of the features.
        width: $d$, channels of the convolutions.
        hidden: $h$, outputs of the fully connected layers that score a box.
        size: $s$, cells along each side of a search region; half as many of a box that is scored.
        bins: $M$, number of columns and of rows.
        context: $\gamma$, by which factor a box is enlarged to get its search region.
        scale: $\rho$, size of the features relative to the image.
        iterations: $T$, rounds of scoring and refining.
        duplicate: $u$, IoU above which a box is a duplicate of a better one; from it on, a box has hardly moved.
        most: $k$, how many boxes of a round are refined.
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 512,
        hidden: int = 1024,
        size: int = 14,
        bins: int = 28,
        context: float = 1.8,
        scale: float = 0.0625,
        iterations: int = 5,
        duplicate: float = 0.9,
        most: int = 2000,
    ) -> None:
        super().__init__()
        self.size, self.context, self.scale = size, context, scale
        self.iterations, self.duplicate, self.most = iterations, duplicate, most
        self.convolutions = nn.ModuleList((nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)))
        self.columns, self.rows = nn.Linear(width * size, bins), nn.Linear(width * size, bins)
        self.layers = nn.ModuleList((nn.Linear(channels * (size // 2) ** 2, hidden), nn.Linear(hidden, hidden)))
        self.objectness = nn.Linear(hidden, 1)

    @checked
    def forward(
        self, features: Float[Tensor, "b channels h w"], boxes: Float[Tensor, "b n 4"]
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n 2 bins"]]:
        """Features and boxes, absolute `(x1, y1, x2, y2)` in pixels -> logits of an object, and of columns and rows to be inside it."""
        return self.score(features, boxes), self.locate(features, boxes)

    def score(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Logit of each box to hold an object."""
        x = roi_align(features, boxes, scale=self.scale, size=self.size // 2).flatten(-3)
        for layer in self.layers:
            x = relu(layer(x))
        logits: Tensor = self.objectness(x).squeeze(-1)
        return logits

    def locate(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Logits of the columns and rows of each search region."""
        start, length = _region(boxes, self.context)
        x = roi_align(features, torch.cat((start, start + length), -1), scale=self.scale, size=self.size).flatten(0, 1)
        for layer in self.convolutions:
            x = relu(layer(x))
        found = torch.stack((self.columns(x.amax(-2).flatten(1)), self.rows(x.amax(-1).flatten(1))), 1)
        return found.view(*boxes.shape[:2], *found.shape[1:])

    @torch.no_grad()
    def propose(
        self, features: Float[Tensor, "b channels h w"], boxes: Float[Tensor, "b n 4"], image_size: Float[Tensor, "b 2"] | None = None
    ) -> tuple[Float[Tensor, "b k 4"], Float[Tensor, "b k"], Bool[Tensor, "b k"]]:
        """Proposals of an image.

        Args:
            features: of one level.
            boxes: where to start, as `seeds` gives them.
            image_size: width and height; refined boxes are cut off there. Without it they are not.

        Returns:
            The refined boxes of all rounds, one round after the other, each with the probability of an object in the box that it was
            refined from, and which of them took part. `multi_threshold_nms` makes the list of proposals of it.
        """
        present = torch.ones_like(boxes[..., 0], dtype=torch.bool)
        scores = self.score(features, boxes).sigmoid()
        boxes, scores, present = self._reduce(boxes, scores, present)
        rounds = []
        for i in range(self.iterations):
            if i > 0:
                scores = self.score(features, boxes).sigmoid()
            refined = in_out_boxes(boxes, self.locate(features, boxes), context=self.context)
            if image_size is not None:
                refined = clip_boxes(refined, image_size[:, None])
            rounds.append((refined, scores, present))
            present = present & (box_iou(boxes, refined) < self.duplicate)
            boxes, scores, present = self._reduce(refined, scores, present)
        found, scores, present = (torch.cat(x, 1) for x in zip(*rounds, strict=True))
        return found, scores, present

    def _reduce(self, boxes: Tensor, scores: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best boxes that are no duplicates."""
        kept = nms(boxes, scores, present, limit=self.most, threshold=self.duplicate)
        index = scores.masked_fill(~kept, -torch.inf).topk(min(self.most, scores.shape[-1])).indices
        return boxes.gather(1, index[..., None].expand(*index.shape, 4)), scores.gather(1, index), kept.gather(1, index)

    @staticmethod
    def seeds(width: int, height: int, *, count: int = 10000) -> Float[Tensor, "n 4"]:
        """Boxes of 25 shapes spread evenly over an image of this size in pixels, about `count` at most, more of the smaller shapes.

        Where a shape does not fit, the whole image is a box, too.
        """
        shapes = [(w, h) for w, h in SEED_SHAPES if w < width and h < height]
        widest, highest = max((w for w, _ in shapes), default=0), max((h for _, h in shapes), default=0)
        shares = [min(24, widest // w) * min(24, highest // h) for w, h in shapes]
        found = [] if len(shapes) == len(SEED_SHAPES) else [torch.tensor([[0.0, 0.0, width, height]])]
        for (w, h), share in zip(shapes, shares, strict=True):
            limit = max(1, share * (count // sum(shares)))
            step_x, step_y = max(4.0, w / 8), max(4.0, h / 8)
            while len(x := _spread(width - w, step_x)) * len(y := _spread(height - h, step_y)) > limit:
                step_x, step_y = step_x + 2, step_y + 2
            corner = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
            found.append(torch.cat((corner, corner + torch.tensor([float(w), float(h)])), -1))
        return torch.cat(found)


def _spread(room: float, step: float) -> Tensor:
    """Positions from 0 to `room`, a step apart, with as little room left at one end as at the other."""
    return room % step / 2 + step * torch.arange(int(room // step) + 1)


def _region(boxes: Tensor, context: float) -> tuple[Tensor, Tensor]:
    """Upper left corner and size of the search region of each box."""
    boxes = widen(boxes)
    length = context * box_size(boxes)
    return box_center(boxes) - length / 2, length


def _odds(logits: Tensor) -> Tensor:
    """What it adds to the logarithm of the likelihood that something is so, and not otherwise."""
    logits = widen(logits.detach())
    return logsigmoid(logits).clamp(min=LEAST) - logsigmoid(-logits).clamp(min=LEAST)
