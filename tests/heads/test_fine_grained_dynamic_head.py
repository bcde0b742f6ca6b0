"""Laws of the fine-grained dynamic head."""

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from reference_impl.heads import FineGrainedDynamicHead, restricted_tanh


def pyramid(device: str, levels: int = 4, size: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 8, size >> i, size >> i, generator=generator, dtype=torch.float64).to(device) for i in range(levels)]


def head(device: str, layers: int, levels: int = 4, mixed: float | None = 0.5) -> FineGrainedDynamicHead:
    torch.manual_seed(0)
    found = FineGrainedDynamicHead(levels, width=8, layers=layers, groups=2).double().to(device)
    for layer in found.layers:
        if mixed is not None:
            layer.weights[1].data.fill_(mixed)  # type: ignore[index, union-attr]
    return found


def set_gates(module: FineGrainedDynamicHead, logit: float) -> None:
    """Every gate has this logit everywhere."""
    for name, parameter in module.named_parameters():
        if "gate" in name:
            torch.nn.init.constant_(parameter, logit if name.endswith("bias") else 0.0)


def test_the_gate_is_closed_exactly_and_opens_smoothly(device: str) -> None:
    x = torch.linspace(-10, 10, 2001, dtype=torch.float64, device=device).requires_grad_()
    gate = restricted_tanh(x)
    assert (gate[x <= 0] == 0).all()
    assert ((gate > 0) & (gate < 1))[x > 0].all()
    (gradient,) = torch.autograd.grad(gate.sum(), x)
    assert (gradient[x < 0] == 0).all()
    assert x[gradient.argmax()].item() == torch.linspace(-10, 10, 2001, dtype=torch.float64)[1150]


def test_it_starts_as_one_level_each_with_gates_open(device: str) -> None:
    """Nothing is mixed in at first, and gates stand at 0.99 where features are small."""
    given = pyramid(device)
    module = head(device, 2, mixed=None)
    for i in range(4):
        touched = module([x + 1 if j == i else x for j, x in enumerate(given)])
        changed = [not a.equal(b) for a, b in zip(module(given)[:4], touched[:4], strict=True)]
        assert changed == [j == i for j in range(4)]
    *_, cost, used = module([1e-3 * x for x in given])
    torch.testing.assert_close(cost, torch.full_like(cost, 0.99), rtol=0.02, atol=0)
    assert used.eq(1).all()


def test_a_layer_reaches_the_neighbouring_levels(device: str) -> None:
    for layers in (1, 2):
        given, module = pyramid(device), head(device, layers)
        for i in range(4):
            touched = module([x + x.square() if j == i else x for j, x in enumerate(given)])
            changed = [not a.equal(b) for a, b in zip(module(given)[:4], touched[:4], strict=True)]
            assert changed == [abs(j - i) <= layers for j in range(4)]


def test_closed_gates_leave_the_levels_and_cost_nothing(device: str) -> None:
    given, module = pyramid(device), head(device, 3)
    set_gates(module, -1.0)
    *found, cost, used = module(given)
    assert cost.eq(0).all()
    assert used.eq(0).all()
    for x, y in zip(given, found, strict=True):
        torch.testing.assert_close(y, x.relu())


def test_open_gates_cost_everything(device: str) -> None:
    module = head(device, 3)
    set_gates(module, 50.0)
    *_, cost, used = module(pyramid(device))
    torch.testing.assert_close(cost, torch.ones_like(cost))
    torch.testing.assert_close(used, torch.ones_like(used))


def test_it_is_never_cheaper_than_its_gates_say(device: str) -> None:
    *_, cost, used = head(device, 2)(pyramid(device))
    assert (cost <= used).all()


def test_the_budget_closes_gates(device: str) -> None:
    """Trained for the cost alone, it computes less and less, by the gates of the blocks and not by those between levels."""
    given, module = pyramid(device), head(device, 1, mixed=None)
    gates = {name: p for name, p in module.named_parameters() if "gate" in name}
    *_, before, _ = module(given)
    optimiser = torch.optim.SGD(gates.values(), lr=50.0)
    for _ in range(8):
        optimiser.zero_grad()
        module(given)[-2].mean().backward()
        moved = {name for name, p in gates.items() if p.grad is not None and p.grad.abs().max() > 0}
        assert all(".gate." in name for name in moved)
        optimiser.step()
    assert (module(given)[-2] < before / 2).all()


def test_it_learns(device: str) -> None:
    """It can be taught to bring the finest level to the next one."""
    given, module = pyramid(device, 3), head(device, 2, 3)
    target = given[0][..., ::2, ::2].relu()
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(30):
        loss = mse_loss(module(given)[1], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
