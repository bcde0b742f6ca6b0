"""Laws of FreeAnchor."""

from typing import Any

import torch
from torch import Tensor

from reference_impl.assignment import free_anchor
from reference_impl.losses import focal_loss
from reference_impl.ops.boxes import box_iou, decode_deltas, encode_deltas


def scene(device: str, n: int = 60, m: int = 5, c: int = 4) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    corner = 20 * torch.rand(2, n + m, 2, generator=draw, dtype=torch.float64)
    boxes = torch.cat((corner, corner + 10 + 20 * torch.rand(2, n + m, 2, generator=draw, dtype=torch.float64)), -1)
    made = {
        "anchors": boxes[:, :n],
        "logits": torch.randn(2, n, c, generator=draw, dtype=torch.float64),
        "deltas": torch.randn(2, n, 4, generator=draw, dtype=torch.float64),
        "boxes": boxes[:, n:],
        "labels": torch.randint(c, (2, m), generator=draw),
    }
    return {name: x.to(device) for name, x in made.items()} | {"bag": 7}


def test_it_is_what_the_definition_says_box_by_box(device: str) -> None:
    s = scene(device)
    positive, negative = free_anchor(**s)
    std = torch.tensor([0.1, 0.1, 0.2, 0.2], dtype=torch.float64, device=device)
    for image in range(2):
        anchors, logits, deltas, boxes = (s[name][image] for name in ("anchors", "logits", "deltas", "boxes"))
        moved, p = decode_deltas(deltas * std, anchors), torch.zeros_like(logits)
        for i, (box, label) in enumerate(zip(boxes, s["labels"][image], strict=True)):
            bag = box_iou(box, anchors).argsort(descending=True)[:7]
            error = (deltas[bag] - encode_deltas(box, anchors[bag]) / std).abs()
            smooth = torch.where(error < 0.11, error.square() / 0.22, error - 0.055).sum(-1)
            x = logits[bag, label].sigmoid() * (-0.75 * smooth).exp()
            mean_max = (x / (1 - x)).sum() / (1 / (1 - x)).sum()
            torch.testing.assert_close(positive[image, i], -0.5 * mean_max.log())
            iou = box_iou(box, moved)
            if iou.max() > 0.6:
                share = ((iou - 0.6) / (iou.max() - 0.6)).clamp(min=0)
                p[:, label] = torch.maximum(p[:, label], share)
        q = logits.sigmoid() * (1 - p)
        torch.testing.assert_close(negative[image], -0.5 * (q.square() * (1 - q).log()).sum(-1))


def test_without_ground_truths_it_is_focal_loss_of_background(device: str) -> None:
    s = scene(device)
    background = torch.full(s["logits"].shape[:-1], s["logits"].shape[-1], device=device)
    expected = focal_loss(s["logits"], background, alpha=0.5)
    nothing = s | {"boxes": s["boxes"][:, :0], "labels": s["labels"][:, :0]}
    torch.testing.assert_close(free_anchor(**nothing)[1], expected)
    none_present = s | {"present": torch.zeros_like(s["labels"], dtype=torch.bool)}
    positive, negative = free_anchor(**none_present)
    assert (positive == 0).all()
    torch.testing.assert_close(negative, expected)


def test_the_order_of_anchors_and_of_ground_truths_does_not_matter(device: str) -> None:
    s = scene(device)
    positive, negative = free_anchor(**s)
    turned = s | {name: s[name].flip(1) for name in ("anchors", "logits", "deltas")}
    other, flipped = free_anchor(**turned)
    torch.testing.assert_close(other, positive)
    torch.testing.assert_close(flipped.flip(1), negative)
    turned = s | {name: s[name].flip(1) for name in ("boxes", "labels")}
    flipped, other = free_anchor(**turned)
    torch.testing.assert_close(other, negative)
    torch.testing.assert_close(flipped.flip(1), positive)


def perfect(device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One object, one anchor that is nearly perfect in both tasks, three that are poor."""
    anchors = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 2.0, 8.0, 10.0], [1.0, 0.0, 9.0, 8.0], [0.0, 0.0, 8.0, 6.0]], device=device)
    logits = torch.tensor([[30.0], [-5.0], [-5.0], [-5.0]], device=device, requires_grad=True)
    return anchors, logits, torch.zeros(4, 4, device=device), anchors[:1]


def test_one_good_anchor_is_enough_and_the_others_become_background(device: str) -> None:
    anchors, logits, deltas, boxes = perfect(device)
    positive, negative = free_anchor(anchors, logits, deltas, boxes, torch.zeros(1, dtype=torch.long, device=device))
    assert positive.item() < 1e-6
    assert negative[0] == 0
    (gradient,) = torch.autograd.grad(positive.sum() + negative.sum(), logits)
    assert (gradient[1:] > 0).all()


def test_while_all_are_poor_every_anchor_of_the_bag_learns(device: str) -> None:
    anchors, _, deltas, boxes = perfect(device)
    logits = torch.full((4, 1), -8.0, device=device, requires_grad=True)
    positive, _ = free_anchor(anchors, logits, deltas, boxes, torch.zeros(1, dtype=torch.long, device=device))
    (gradient,) = torch.autograd.grad(positive.sum(), logits)
    assert (gradient < 0).all()


def test_many_anchors_have_the_same_losses_and_gradients_as_few(device: str) -> None:
    s = scene(device, n=3000, m=9)
    s["deltas"] /= 10
    s["labels"][:, 0] = -1
    logits = s["logits"].requires_grad_()
    _, negative = free_anchor(**s)
    (by_blocks,) = torch.autograd.grad(negative.sum(), logits, retain_graph=True)
    (by_formula,) = torch.autograd.grad(negative.sum(), logits, create_graph=True)
    torch.testing.assert_close(by_blocks, by_formula)
    _, losses = torch.func.vmap(lambda x: free_anchor(**(s | {"logits": x})))(logits.detach()[None])
    torch.testing.assert_close(negative, losses[0])
