"""Laws of the two heads that pool every box from all levels: adaptive feature pooling and soft RoI selection."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits

from reference_impl.heads import AdaptiveFeaturePooling, SoftRoISelection
from reference_impl.ops.boxes import box_iou
from reference_impl.ops.roi_align import roi_align
from tools.scenes import CLASSES, STRIDE, jittered, painted


def scene(device: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], Tensor, Tensor]:
    """Three levels, boxes around the objects, and whether each lies well on one."""
    features, boxes, _ = painted(4, seed=seed, device=device, dtype=dtype)
    levels = [features, avg_pool2d(features, 2), avg_pool2d(features, 4)]
    proposals = torch.cat((boxes, jittered(boxes, each=6, seed=seed)), 1)
    return levels, proposals, (box_iou(proposals[:, :, None], boxes[:, None]).amax(-1) > 0.6).to(dtype)


def both(device: str, dtype: torch.dtype = torch.float32) -> list[nn.Module]:
    torch.manual_seed(0)
    pooling = AdaptiveFeaturePooling(CLASSES, levels=3, width=32, size=3, groups=4, scale=1 / STRIDE)
    return [pooling.to(device, dtype), SoftRoISelection(CLASSES, levels=3, size=3, scale=1 / STRIDE).to(device, dtype)]


def test_training_lowers_the_objective(device: str) -> None:
    """A linear layer behind each learns which boxes lie well."""
    levels, proposals, target = scene(device)
    for module in both(device):
        classify = nn.Linear(module(levels, proposals).flatten(2).shape[-1], 1).to(device)
        optimiser = torch.optim.Adam([*module.parameters(), *classify.parameters()], lr=1e-2)
        history = []
        for _ in range(60):
            optimiser.zero_grad()
            loss = binary_cross_entropy_with_logits(classify(module(levels, proposals).flatten(2)).squeeze(-1), target)
            loss.backward()
            optimiser.step()
            history.append(loss.item())
        assert history[-1] < 0.8 * history[0]
        assert all(p.grad is not None and p.grad.any() for p in module.parameters())


def test_every_box_hears_every_level(device: str) -> None:
    """Also a small one the coarsest level, and a large one the finest."""
    levels, _, _ = scene(device, dtype=torch.float64)
    proposals = torch.tensor([[[20.0, 20.0, 30.0, 30.0], [8.0, 8.0, 120.0, 120.0]]], dtype=torch.float64, device=device).repeat(4, 1, 1)
    levels = [(x + torch.rand_like(x)).requires_grad_() for x in levels]
    for module in both(device, torch.float64):
        found = module(levels, proposals)
        for i in range(2):
            for gradient in torch.autograd.grad(found[:, i].sum() + found[:, i].square().sum(), levels, retain_graph=True):
                assert gradient.any()


def test_boxes_do_not_meet(device: str) -> None:
    """A box gets the same, in whatever company and order."""
    levels, proposals, _ = scene(device, dtype=torch.float64)
    for module in both(device, torch.float64):
        together = module(levels, proposals)
        torch.testing.assert_close(module(levels, proposals.flip(1)).flip(1), together)
        torch.testing.assert_close(module(levels, proposals[:, 3:4]), together[:, 3:4])
        assert module(levels, proposals[:, :0]).shape[1] == 0


def test_the_maximum_comes_after_the_first_layers(device: str) -> None:
    """Each element is that of the level whose own layer gives most: a loop over boxes and levels."""
    levels, proposals, _ = scene(device, dtype=torch.float64)
    module = both(device, torch.float64)[0]
    found = module(levels, proposals)
    for n in range(0, proposals.shape[1], 5):
        rows = []
        for own, x, scale in zip(module.own, levels, (1 / 4, 1 / 8, 1 / 16), strict=True):
            rows.append(normalised(own[0](roi_align(x, proposals[:, n : n + 1], scale=scale, size=3).reshape(4, -1))))
        torch.testing.assert_close(found[:, n], normalised(module.shared[0](torch.stack(rows).amax(0))))


def normalised(hidden: Tensor) -> Tensor:
    """In four groups, and cut off at 0."""
    groups = hidden.unflatten(1, (4, 8))
    centred = groups - groups.mean(-1, keepdim=True)
    return (centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(1).clamp(min=0)


def test_equal_weights_give_the_sum(device: str) -> None:
    """Without any say of the features, each level counts one half: nothing makes the weights sum to 1."""
    levels, proposals, _ = scene(device, dtype=torch.float64)
    module = both(device, torch.float64)[1]
    nn.init.zeros_(module.weigh.weight)
    summed = sum(roi_align(x, proposals, scale=scale, size=3) for x, scale in zip(levels, (1 / 4, 1 / 8, 1 / 16), strict=True))
    torch.testing.assert_close(module(levels, proposals), summed / 2)


def test_a_missing_level_is_named(device: str) -> None:
    levels, proposals, _ = scene(device)
    for module in both(device):
        with pytest.raises(ValueError, match="expected 3, finest first"):
            module(levels[:2], proposals)
