"""SNIPER, chips instead of whole images: Singh, Najibi and Davis, NeurIPS 2018."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from reference_impl.ops.boxes import box_area, box_size, clip_boxes
from reference_impl.ops.checked import checked
from reference_impl.ops.numerics import widen

__all__ = ["chip_targets", "negative_chips", "sniper"]


@checked
def sniper(
    boxes: Float[Tensor, "*batch n 4"],
    size: Float[Tensor, "*batch 2"] | None = None,
    valid: Bool[Tensor, "*batch n"] | None = None,
    noise: Float[Tensor, "*batch n"] | None = None,
    *,
    chip: int = 512,
    stride: int = 32,
    longest: int = 2000,
) -> tuple[Float[Tensor, "*batch n 4"], Bool[Tensor, "*batch n"]]:
    r"""Cuts windows out of an image of the pyramid so that the objects of the right size are in them, and as little else as it can.

    $$ C_t = \arg\max_{C} |\{i : g_i \subseteq C,\; g_i \not\subseteq C_1, \dots, C_{t-1}\}| $$

    Windows of $K \times K$ pixels stand at every $d$-th row and column; at the far borders they are moved inwards. Again and again the one
    that encloses most objects which are in none yet is taken, one of them at random if several enclose equally many, until none encloses
    another object. An object whose sides are at most $K - d$ is sure to be in one, a larger one is not.

    Chips are made before training, once for an epoch; a round is a loop of the host, of which there are at most as many as boxes. No
    gradient passes through.

    Args:
        boxes: ground truths $g_i$ in the pixels of the resized image, absolute `(x1, y1, x2, y2)`.
        size: width and height of each resized image; by default `longest`.
        valid: the boxes to enclose, those in range at this resolution, as `snip` says; by default all.
        noise: uniform in [0, 1), one number a round, picks among chips that enclose equally many; a fresh draw by default.
        chip: $K$ in pixels; a smaller image is one chip.
        stride: $d$ in pixels.
        longest: $L$, longest side in pixels that an image may have; what is beyond is not covered.

    Returns:
        The chips, absolute `(x1, y1, x2, y2)`, in the order in which they were taken, and which of them are no padding. Padding is without
        area.

    Raises:
        ValueError: the shapes do not fit together.
    """
    wanted = torch.ones_like(boxes[..., 0], dtype=torch.bool) if valid is None else valid
    return _cover(boxes, wanted, size, noise, chip=chip, stride=stride, longest=longest, fewest=1)


@checked
def negative_chips(
    proposals: Float[Tensor, "*batch n 4"],
    chips: Float[Tensor, "*batch m 4"],
    size: Float[Tensor, "*batch 2"] | None = None,
    valid: Bool[Tensor, "*batch n"] | None = None,
    noise: Float[Tensor, "*batch n"] | None = None,
    *,
    chip: int = 512,
    stride: int = 32,
    longest: int = 2000,
    fewest: int = 11,
) -> tuple[Float[Tensor, "*batch n 4"], Bool[Tensor, "*batch n"]]:
    r"""Cuts out where a proposal network, trained for a short time, fires although no chip was made for it: likely false alarms.

    $$ C_t = \arg\max_{C} |\{i : p_i \subseteq C,\; p_i \in \mathcal{R},\; p_i \not\subseteq C_1, \dots, C_{t-1}\}|, \qquad
    \text{while it is at least } M $$

    $\mathcal{R}$ are the proposals that share no pixel with a chip of the objects. Without such chips the detector would never see most of
    the background. In each epoch the authors draw two of those of an image: `take(torch.rand(chosen.shape), chosen, 2)` with `take` of
    `ops.select` and the second output for `chosen`. No gradient passes through.

    Args:
        proposals: $p_i$ in the pixels of the resized image, absolute `(x1, y1, x2, y2)`.
        chips: those of the objects at this resolution, as `sniper` gives them.
        size: width and height of each resized image; by default `longest`.
        valid: the proposals in range at this resolution, as `snip` says; by default all.
        noise: uniform in [0, 1), one number a round, picks among chips that enclose equally many; a fresh draw by default.
        chip: side of a chip in pixels.
        stride: rows and columns from one candidate to the next, in pixels.
        longest: longest side that an image may have.
        fewest: $M$, proposals that a chip encloses at least.

    Returns:
        The chips, absolute `(x1, y1, x2, y2)`, in the order in which they were taken, and which of them are no padding.

    Raises:
        ValueError: the shapes do not fit together.
    """
    first, last = proposals[..., :, None, :2].maximum(chips[..., None, :, :2]), proposals[..., :, None, 2:].minimum(chips[..., None, :, 2:])
    untouched = ~(last - first >= 1).all(-1).any(-1)
    wanted = untouched if valid is None else untouched & valid
    return _cover(proposals, wanted, size, noise, chip=chip, stride=stride, longest=longest, fewest=fewest)


@checked
def chip_targets(
    boxes: Float[Tensor, "*batch m 4"],
    reference: Float[Tensor, "*batch n 4"],
    size_range: Float[Tensor, "*batch 2"],
    valid: Bool[Tensor, "*batch m"] | None = None,
    *,
    smallest: float = 10.0,
) -> tuple[Float[Tensor, "*batch n m 4"], Bool[Tensor, "*batch n m"], Bool[Tensor, "*batch n m"]]:
    r"""Says what there is in each chip: all objects that reach into it, cut off at its border, and which of them are to be found.

    $$ \bar g_{ci} = g_i \cap C_c, \qquad \mathrm{found}_{ci} = [l \le \sqrt{\bar w_{ci} \bar h_{ci}} \le u] $$

    Anchors of the chip are labelled with the objects to be found, and ignored on the others, as `snip_ignored_anchors` does for an image.

    Args:
        boxes: ground truths $g_i$ in the pixels of the resized image, absolute `(x1, y1, x2, y2)`.
        reference: the chips $C_c$.
        size_range: $l$ and $u$ at this resolution, in the same pixels; $u$ may be infinite.
        valid: which of `boxes` are no padding; by default all.
        smallest: an object of which less is in the chip, in width or height, is not there.

    Returns:
        For each chip all boxes, relative to its upper left corner and cut off at its border; which of them are there; and which of these
        are in range.

    Raises:
        ValueError: the shapes do not fit together.
    """
    boxes, reference = widen(boxes.detach())[..., None, :, :], widen(reference.detach())[..., :, None, :]
    corner, side = reference[..., :2], box_size(reference)
    inside = clip_boxes(boxes - torch.cat((corner, corner), -1), side)
    there = (box_size(inside) >= smallest).all(-1)
    if valid is not None:
        there = there & valid[..., None, :]
    visible, (lowest, highest) = box_area(inside).sqrt(), widen(size_range)[..., None, None].unbind(-3)
    return inside, there, there & (visible >= lowest) & (visible <= highest)


def _cover(
    boxes: Tensor,
    wanted: Tensor,
    size: Tensor | None,
    noise: Tensor | None,
    *,
    chip: int,
    stride: int,
    longest: int,
    fewest: int,
) -> tuple[Tensor, Tensor]:
    """Takes the window with most of the `wanted` boxes, until none has `fewest` that are in no other; windows, and which are no padding."""
    boxes = widen(boxes.detach())
    noise = torch.rand_like(boxes[..., 0]) if noise is None else noise.detach()
    size = boxes.new_full((*boxes.shape[:-2], 2), longest) if size is None else size.to(boxes.dtype)
    columns, rows = (_windows(side, boxes.dtype, chip, stride, longest) for side in size.clamp(max=longest).unbind(-1))
    # A window encloses a box if its columns enclose those of the box, and its rows the rows.
    across, down = (
        (b[..., :1] <= boxes[..., None, :, i]) & (boxes[..., None, :, i + 2] <= b[..., 1:2]) & (b[..., 2:] > 0)
        for i, b in ((0, columns), (1, rows))
    )
    (row, column), found = _take_windows(down, across, wanted, noise, fewest)
    y, x = (b[..., :2].gather(-2, i[..., None].expand(*i.shape, 2)) for b, i in ((rows, row), (columns, column)))
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), -1) * found[..., None], found


def _take_windows(down: Tensor, across: Tensor, wanted: Tensor, noise: Tensor, fewest: int) -> tuple[Sequence[Tensor], Tensor]:
    """Row and column of the window of each round, by which rows and columns enclose a box; and which rounds took one."""
    n = wanted.shape[-1]
    turns = torch.arange(n, device=wanted.device)

    def enclosed(left: Tensor) -> Tensor:
        """How many boxes of `left` each window encloses, by row and column; exact in double."""
        return (down & left[..., None, :]).double() @ across.double().mT

    def take_one(turn: Tensor, place: Tensor, found: Tensor, left: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count = enclosed(left)
        most = count.flatten(-2).amax(-1, keepdim=True)
        now = turns == turn
        row, column = _pick(count == most[..., None], (noise.double() * now).sum(-1))
        enough = most >= fewest
        inside = _at(down, row) & _at(across, column) & enough
        place = torch.where(now, torch.stack((row, column), -2), place)
        return turn + 1, place, found | (now & enough), left & ~inside

    def goes_on(turn: Tensor, place: Tensor, found: Tensor, left: Tensor) -> Tensor:
        return (enclosed(left) >= fewest).any()

    state = (
        torch.zeros(1, dtype=torch.long, device=wanted.device),
        torch.zeros((*wanted.shape[:-1], 2, n), dtype=torch.long, device=wanted.device),
        torch.zeros_like(wanted),
        wanted.clone(),
    )
    if n and torch.compiler.is_compiling():
        state = while_loop(goes_on, take_one, state)  # type: ignore[no-untyped-call]
    elif n:
        for _ in range(n // fewest):
            # Where looking costs nothing.
            if wanted.device.type == "cpu" and not goes_on(*state):
                break
            state = take_one(*state)
    _, place, found, _ = state
    return place.unbind(-2), found


def _pick(among: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of one of the marked places of a table, each as likely as any other."""
    by_row = among.sum(-1)
    end = by_row.cumsum(-1)
    number = (noise[..., None] * end[..., -1:]).long()
    row = (end <= number).sum(-1, keepdim=True)
    within = number - (end - by_row).gather(-1, row)
    one = among.gather(-2, row[..., None].expand(*row.shape, among.shape[-1])).squeeze(-2)
    return row, (one.cumsum(-1) <= within).sum(-1, keepdim=True)


def _windows(side: Tensor, dtype: torch.dtype, chip: int, stride: int, longest: int) -> Tensor:
    """Start and end of every window along one side, and whether it is another one than the window before it."""
    start = torch.arange(max(math.ceil((longest - chip) / stride), 0) + 1, device=side.device, dtype=dtype) * stride
    last = (side - chip).clamp(min=0)[..., None]
    moved = start.minimum(last)
    return torch.stack((moved, (moved + chip).minimum(side[..., None]), ((start - stride < last) | (start == 0)).to(dtype)), -1)


def _at(table: Tensor, row: Tensor) -> Tensor:
    """One row of each table."""
    return table.gather(-2, row[..., None].expand(*row.shape, table.shape[-1])).squeeze(-2)
