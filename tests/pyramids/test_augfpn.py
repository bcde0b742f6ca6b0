"""Laws of AugFPN."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, mse_loss

from reference_impl.ops.boxes import encode_deltas
from reference_impl.pyramids import FPN, AugFPN, ConsistentSupervision, consistent_supervision_loss
from tools.scenes import CLASSES, STRIDE, jittered, painted


def levels(device: str, channels: list[int], size: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, size >> i, size >> i, generator=generator, dtype=torch.float64).to(device) for i, c in enumerate(channels)]


def pyramid(device: str, channels: list[int]) -> AugFPN:
    torch.manual_seed(0)
    return AugFPN(channels, width=4).double().to(device)


def test_without_a_context_it_is_fpn(device: str) -> None:
    """With all weights of the contexts at sigmoid(-1000) = 0."""
    module, plain, given = pyramid(device, [2, 3, 4]), FPN([2, 3, 4], width=4).double().to(device), levels(device, [2, 3, 4])
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if k.startswith(("lateral", "smooth"))})
    torch.nn.init.constant_(module.get_parameter("weigh.2.bias"), -1000.0)
    for x, y in zip(module(given), plain(given), strict=True):
        torch.testing.assert_close(x, y)


def test_the_context_of_a_cell_is_the_whole_image(device: str) -> None:
    """One corner of the top changes the other one, which no 3 x 3 convolution of it would, and the levels below."""
    module, given = pyramid(device, [2, 3]), levels(device, [2, 3])
    before = module(given)
    given[1] = given[1].clone()
    given[1][..., 0, 0] += 1
    for x, y in zip(module(given), before, strict=True):
        assert not x[..., -1, -1].allclose(y[..., -1, -1])


def test_extra_levels_have_the_same_sizes_either_way(device: str) -> None:
    """And those of RetinaNet know the whole image from the first one on."""
    given = levels(device, [2, 3], size=22)
    plain, convolved = (AugFPN([2, 3], width=4, extra_levels=2, convolve_extra=c).double().to(device) for c in (False, True))
    before = convolved(given)
    assert [x.shape for x in before] == [x.shape for x in plain(given)]
    given[1] = given[1].clone()
    given[1][..., 0, 0] += 1
    for x, y in zip(convolved(given)[2:], before[2:], strict=True):
        assert not x[..., -1, -1].allclose(y[..., -1, -1])


def test_supervision_teaches_the_laterals_alone(device: str) -> None:
    """Every level learns to detect, and what lies behind the laterals hears nothing of it."""
    torch.manual_seed(0)
    features, boxes, labels = painted(8, seed=0, device=device)
    given = [features, avg_pool2d(features, 2), avg_pool2d(features, 4)]
    module = AugFPN([2, 2, 2], width=4).to(device)
    head = ConsistentSupervision(4, CLASSES, size=3, hidden=24, scale=1 / STRIDE).to(device)
    proposals = torch.cat((jittered(boxes, each=4, seed=0, spread=0.15), boxes.flip(-2) + 40), 1)
    own = torch.cat((labels.repeat_interleave(4, 1), labels), 1)
    target = encode_deltas(torch.cat((boxes.repeat_interleave(4, 1), boxes), 1), proposals)
    positive = torch.arange(10, device=device).expand(8, -1) < 8
    optimiser = torch.optim.Adam([*module.lateral.parameters(), *head.parameters()], lr=0.01)
    losses = []
    for _ in range(60):
        logits, offsets = head(module.laterals(given), proposals)
        offsets = offsets.gather(-2, own[:, None, :, None, None].expand(-1, 3, -1, 1, 4)).squeeze(-2)
        by_class, by_box = consistent_supervision_loss(logits, offsets, own, target, positive)
        module.zero_grad()
        head.zero_grad()
        (by_class + by_box).mean(-1).sum().backward()
        optimiser.step()
        losses.append((by_class + by_box).detach().mean((0, 2)))
    assert (losses[-1] < losses[0] / 2).all(), (losses[0], losses[-1])
    assert all(x.weight.grad.any() for x in module.lateral)
    assert all(x.grad is None for x in (*module.smooth.parameters(), *module.context.parameters(), *module.weigh.parameters()))


def test_it_learns(device: str) -> None:
    """It can be taught to tell every cell of the finest level the mean of the coarsest."""
    module, given = pyramid(device, [2, 3]), levels(device, [2, 3])
    target = given[1].mean((1, 2, 3), keepdim=True).expand(2, 4, 16, 16)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = mse_loss(module(given)[0], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
