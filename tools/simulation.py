"""Box regression by gradient descent, one case for each anchor and target, as the authors of DIoU compare losses, all cases in one batch.

Protocol and figures from github.com/Zzh-tju/DIoU at commit be00841, `simulation experiment/test_1715k.m`: seven targets of area 1 at
(10, 10); anchors at points spread evenly over the disc of radius 3 around it, each in seven areas and seven aspect ratios; 200 steps on
centre and size with rates 0.1, then 0.01 from step 161 and 0.001 from step 181, each gradient times 2 less the IoU, for width and height
(which the authors take as the difference of the gradients of opposite sides) twice that; the error is the sum of the absolute differences
of centre and size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from reference_impl.ops.boxes import box_around, box_iou
from tools.catalog import Catalog
from tools.golden import parameters, resolve, tensor_annotation

RATIOS = (1 / 4, 1 / 3, 1 / 2, 1.0, 2.0, 3.0, 4.0)
AREAS = (0.5, 0.67, 0.75, 1.0, 1.33, 1.5, 2.0)
CENTER, RADIUS = 10.0, 3.0
RATES = [0.1] * 160 + [0.01] * 20 + [0.001] * 20
STEP = (1.0, 1.0, 2.0, 2.0)
ALL_POINTS = 5000

BoxLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Run:
    """What became of the cases under one loss.

    Attributes:
        errors: mean error after each step, from none to the last.
        done: share of the cases whose last IoU is above 0.9.
        apart: the same of those whose anchor did not touch the target.
        ways: error of each case at the end.
    """

    errors: list[float]
    done: float
    apart: float
    ways: Tensor


def box_losses(
    catalog: Catalog, coordinates: Callable[[Tensor], Tensor] | None = None, functions: Callable[[str], Any] = resolve
) -> dict[str, BoxLoss]:
    """Every implemented regression loss that needs no more than a box and its target: from `[n 4]` corners to one loss for each box.

    A loss of coordinates is summed over `coordinates` of the boxes, by default centre and size. A variance that it also wants is 1. A loss
    that weighs a box by the others of its batch, as GHM-R does, is left out: its steps would depend on how many cases there are.
    `functions` gives the function of an id.
    """
    found = {}
    for id, method in catalog.implemented.items():
        if not any(address.startswith("regression_loss.") for address in method.addresses) or not id.startswith("losses."):
            continue
        known = parameters(resolve(id))
        needed = {name for name, p in known.items() if p.default is p.empty}
        shape = tensor_annotation(known["pred"].annotation).dim_str if "pred" in known else ""
        if {"pred", "target"} <= needed <= {"pred", "target", "log_variance"} and shape in ("*n", "*batch 4"):
            found[id] = (
                _of_boxes(functions(id))
                if shape == "*batch 4"
                else _of_coordinates(functions(id), coordinates or center_size, with_variance="log_variance" in needed)
            )
    return found


def _of_boxes(function: Callable[..., Any]) -> BoxLoss:
    return lambda pred, target: function(pred, target).reshape(len(pred), -1).sum(-1)


def _of_coordinates(function: Callable[..., Any], coordinates: Callable[[Tensor], Tensor], *, with_variance: bool) -> BoxLoss:
    def loss(pred: Tensor, target: Tensor) -> Tensor:
        x, y = coordinates(pred).flatten(), coordinates(target).flatten()
        total: Tensor = function(x, y, *([torch.zeros_like(x)] if with_variance else [])).reshape(-1, 4).sum(-1)
        return total

    return loss


def cases(points: int) -> tuple[Tensor, Tensor]:
    """Anchors and targets, centre and size, `[343 points, 4]`; the points lie on a spiral that spreads any number of them evenly."""
    i = torch.arange(points, dtype=torch.float64)
    radius, angle = RADIUS * ((i + 0.5) / points).sqrt(), i * math.pi * (3 - math.sqrt(5))
    center = CENTER + torch.stack((radius * angle.cos(), radius * angle.sin()), -1)
    root = torch.tensor(RATIOS, dtype=torch.float64).sqrt()
    shape = torch.stack((root, 1 / root), -1)
    area = torch.tensor(AREAS, dtype=torch.float64)
    sizes = (area.sqrt()[:, None, None] * shape).flatten(0, 1)
    anchors = torch.cat((center[:, None].expand(-1, 49, -1), sizes.expand(points, -1, -1)), -1)
    targets = torch.cat((torch.full((7, 2), CENTER, dtype=torch.float64), shape), -1)
    both = anchors[:, None].expand(-1, 7, -1, -1), targets[:, None].expand(points, -1, 49, -1)
    return both[0].reshape(-1, 4), both[1].reshape(-1, 4)


def simulate(loss: BoxLoss, points: int) -> Run:
    """Send every anchor towards its target, down the slope of `loss`."""
    box, target = cases(points)
    goal = corners(target)
    apart = box_iou(corners(box), goal) == 0
    errors = [(box - target).abs().sum(-1).mean().item()]
    for rate in RATES:
        box = descend(loss, box, goal, rate)
        errors.append((box - target).abs().sum(-1).mean().item())
    close = (box_iou(corners(box), goal) > 0.9).double()
    return Run(errors, close.mean().item(), close[apart].mean().item(), (box - target).abs().sum(-1))


def descend(loss: BoxLoss, box: Tensor, goal: Tensor, rate: float) -> Tensor:
    """Boxes, as centre and size, after one step towards targets, which are corners."""
    box = box.detach().requires_grad_()
    pred = corners(box)
    (slope,) = torch.autograd.grad(loss(pred, goal).sum(), box)
    return box.detach() - rate * (2 - box_iou(pred.detach(), goal))[:, None] * slope * slope.new_tensor(STEP)


def corners(box: Tensor) -> Tensor:
    return box_around(box[..., :2], box[..., 2:])


def center_size(box: Tensor) -> Tensor:
    return torch.cat(((box[..., :2] + box[..., 2:]) / 2, box[..., 2:] - box[..., :2]), -1)
