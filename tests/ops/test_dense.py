"""The fast way of a sum over classes is the formula: in value and gradient, and wherever a gradient is asked for in another way."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from reference_impl.losses import equalization_loss, equalization_loss_v2, focal_loss, ghm_c, quality_focal_loss
from reference_impl.ops import dense

Loss = Callable[..., Tensor]
LOSSES = {
    "focal_loss": focal_loss,
    "focal_loss, gamma 0": partial(focal_loss, gamma=0.0),
    "focal_loss, gamma 1/2": partial(focal_loss, gamma=0.5, alpha=0.75),
    "ghm_c": ghm_c,
    "quality_focal_loss": lambda logits, labels: quality_focal_loss(logits, labels, (labels * 0.37 + 2) % 1),
    "quality_focal_loss, beta 1/2": lambda logits, labels: quality_focal_loss(logits, labels, (labels * 0.37 + 2) % 1, beta=0.5),
    "equalization_loss": lambda logits, labels: equalization_loss(logits, labels, torch.arange(5.0)[: logits.shape[-1]], threshold=2.5),
    "equalization_loss_v2": lambda logits, labels: equalization_loss_v2(
        logits, labels, *torch.tensor([[1.0, 2.0, 3.0, 1.0, 2.0], [0.0, 2.0, 4.0, 5.0, 1.0]])[:, : logits.shape[-1]].to(logits.device)
    ),
    "ghm_c, some ignored": lambda logits, labels: ghm_c(logits, labels, labels > 1, bins=7),
}
BOXES, CLASSES = 37, 5


@pytest.fixture(params=LOSSES)
def loss(request: pytest.FixtureRequest) -> Loss:
    return LOSSES[request.param]


@pytest.fixture(autouse=True)
def blocks_of_four_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "SMALL", 1)
    monkeypatch.setattr(dense, "PER_THREAD", 4 * CLASSES)
    monkeypatch.setattr(dense, "AT_ONCE_ELSEWHERE", 4 * CLASSES)


def boxes(device: str, *batch: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Logits with some extreme ones, and labels of which some are background and some lie outside of the classes."""
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(*batch, BOXES, CLASSES, generator=draw, dtype=torch.float64) - 2
    logits[..., :4, :] = torch.tensor([0.0, 100.0, -100.0, 40.0], dtype=torch.float64)[:, None]
    labels = torch.randint(-1, CLASSES + 2, (*batch, BOXES), generator=draw)
    return logits.to(device, dtype).requires_grad_(), labels.to(device)


def plainly(function: Callable[[], Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "SMALL", float("inf"))
        return function()


def gradient(loss: Loss, logits: Tensor, labels: Tensor) -> Tensor:
    """Of a weighted sum in which some boxes have weight 0."""
    each = loss(logits, labels)
    weight = torch.linspace(-1, 3, each.numel(), dtype=each.dtype, device=each.device).clamp(min=0).view_as(each)
    return torch.autograd.grad(each, logits, weight)[0]


def agree(computed: Any, expected: Any) -> None:
    torch.testing.assert_close(computed, expected, rtol=1e-12, atol=1e-14)


@pytest.fixture(params=[True, False], ids=["counted", "not counted"])
def counted(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not counted are boxes with a class on a device, also here on the CPU."""
    if not request.param:
        monkeypatch.setattr(dense, "host_may_look", lambda _: False)


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("batch", [(), (3,), (2, 1)], ids=str)
def test_it_is_the_formula(loss: Loss, batch: tuple[int, ...], device: str) -> None:
    given = boxes(device, *batch)
    agree(loss(*given), plainly(lambda: loss(*given)))
    agree(gradient(loss, *given), plainly(lambda: gradient(loss, *given)))


def test_the_fast_way_is_taken(loss: Loss, device: str) -> None:
    def steps(node: Any) -> list[str]:
        return [node.name(), *(name for n, _ in node.next_functions if n for name in steps(n))]

    logits, labels = boxes(device)
    assert "_SumOverClassesBackward" in steps(loss(logits, labels).grad_fn)
    assert "_SumOverClassesBackward" not in steps(plainly(lambda: loss(logits, labels)).grad_fn)


def test_a_layout_of_any_kind(loss: Loss, device: str) -> None:
    logits, labels = boxes(device, 2)
    across = logits.detach().transpose(-1, -2).contiguous().transpose(-1, -2).requires_grad_()
    every_other = torch.stack((logits, logits), -1).detach().requires_grad_()
    agree(gradient(loss, across, labels), gradient(loss, logits, labels))
    agree(gradient(lambda x, y: loss(x[..., 1], y), every_other, labels)[..., 1], gradient(loss, logits, labels))


def test_no_boxes_and_one_class(loss: Loss, device: str) -> None:
    for shape in [(0, CLASSES), (2, 0, CLASSES), (BOXES, 1)]:
        logits = torch.zeros(shape, dtype=torch.float64, device=device, requires_grad=True)
        labels = torch.zeros(shape[:-1], dtype=torch.int32, device=device)
        agree(loss(logits, labels), plainly(lambda x=logits, y=labels: loss(x, y)))
        agree(gradient(loss, logits, labels), plainly(lambda x=logits, y=labels: gradient(loss, x, y)))


def test_without_gradient(loss: Loss, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = boxes(device)
    expected = plainly(lambda: loss(logits, labels)).detach()
    monkeypatch.delattr(dense, "_SumOverClasses")
    with torch.no_grad():
        agree(loss(logits, labels), expected)
    agree(loss(logits.detach(), labels), expected)


def test_half_precision_is_widened(loss: Loss, device: str) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        logits, labels = boxes(device, dtype=dtype)
        assert loss(logits, labels).dtype is torch.float32
        found, expected = gradient(loss, logits, labels), plainly(lambda x=logits, y=labels: gradient(loss, x, y))
        torch.testing.assert_close(found, expected)


def test_autocast_changes_nothing(loss: Loss, device: str) -> None:
    logits, labels = boxes(device, dtype=torch.float32)
    with torch.autocast(device, dtype=torch.bfloat16):
        inside = loss(logits, labels), gradient(loss, logits, labels)
    agree(inside, (loss(logits, labels), gradient(loss, logits, labels)))


def test_backward_twice(loss: Loss, device: str) -> None:
    logits, labels = boxes(device)
    total = loss(logits, labels).sum()
    first, second, third = (torch.autograd.grad(total, logits, retain_graph=True)[0] for _ in range(3))
    agree(second, first)
    agree(third, first)
    assert first.data_ptr() != second.data_ptr()


def test_backward_twice_of_a_freed_graph_is_an_error(loss: Loss, device: str) -> None:
    total = loss(*boxes(device)).sum()
    total.backward()
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()


def test_gradients_accumulate(loss: Loss, device: str) -> None:
    logits, labels = boxes(device)
    for _ in range(2):
        loss(logits, labels).sum().backward()
    agree(logits.grad, 2 * torch.autograd.grad(loss(logits, labels).sum(), logits)[0])


def test_derivatives_are_those_of_the_value(loss: Loss, device: str) -> None:
    logits, labels = boxes(device)
    logits = logits.detach()[4:14].requires_grad_()
    function = lambda x: loss(x, labels[4:14])  # noqa: E731
    assert torch.autograd.gradcheck(function, logits, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, logits)


def test_a_penalty_on_the_gradient(loss: Loss, device: str) -> None:
    logits, labels = boxes(device)
    scale = torch.tensor(2.0, dtype=torch.float64, device=device, requires_grad=True)

    def penalty() -> tuple[Tensor, ...]:
        (g,) = torch.autograd.grad(loss(scale * logits, labels).sum(), logits, create_graph=True)
        return torch.autograd.grad(g.square().sum(), (logits, scale))

    agree(penalty(), plainly(penalty))


def test_function_transforms(loss: Loss, device: str) -> None:
    logits, labels = boxes(device, 3)
    total = lambda x, y: loss(x, y).sum()  # noqa: E731
    agree(torch.func.grad(total)(logits, labels), torch.autograd.grad(total(logits, labels), logits)[0])
    agree(torch.func.vmap(loss)(logits, labels), loss(logits, labels))
    agree(torch.func.vmap(torch.func.grad(total))(logits, labels), torch.func.grad(total)(logits, labels))
    direction = torch.ones_like(logits)
    slope = (torch.func.grad(total)(logits, labels) * direction).sum()
    agree(torch.func.jvp(lambda x: total(x, labels), (logits,), (direction,))[1], slope)


def test_a_compiled_graph_holds_the_formula(loss: Loss, device: str) -> None:
    given = boxes(device)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(gradient(compiled, *given), gradient(loss, *given))


def test_checkpoints_and_hooks(loss: Loss, device: str) -> None:
    logits, labels = boxes(device)
    expected = gradient(loss, logits, labels)
    agree(gradient(lambda x, y: checkpoint(loss, x, y, use_reentrant=False), logits, labels), expected)
    with torch.autograd.graph.save_on_cpu():
        agree(gradient(loss, logits, labels), expected)
    doubled = logits.detach().requires_grad_()
    doubled.register_hook(lambda g: 2 * g)
    agree(gradient(loss, doubled, labels), 2 * expected)


@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("temperature", [0.001, 0.08, 5.0])
@pytest.mark.parametrize("some_ignored", [False, True])
def test_the_mean_of_others_is_its_formula(batch: tuple[int, ...], temperature: float, some_ignored: bool, device: str) -> None:
    """In blocks and all at once: values, gradient, a second backward, and a gradient of the gradient."""
    draw = torch.Generator().manual_seed(0)
    n, c = 300, 70
    logits = (4 * torch.randn(*batch, n, c, generator=draw, dtype=torch.float64)).to(device).requires_grad_()
    labels = torch.randint(-1, c + 1, (*batch, n), generator=draw).to(device)
    among = (torch.rand(*batch, n, generator=draw) < 0.7).to(device) if some_ignored else None
    ours, plain = (f(logits, labels, among, temperature) for f in (dense.own_logit_and_mean_of_others, dense._own_and_mean))
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=0)
    outer = [torch.arange(1, x.numel() + 1, dtype=torch.float64, device=device).reshape(x.shape) for x in ours]
    (expected,) = torch.autograd.grad(plain, logits, outer)
    for _ in range(2):
        (found,) = torch.autograd.grad(ours, logits, outer, retain_graph=True)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)
    (again,) = torch.autograd.grad(ours, logits, outer, create_graph=True)
    assert again.requires_grad
    torch.testing.assert_close(again.detach(), expected, rtol=1e-9, atol=1e-15)


def test_the_mean_of_no_others(device: str) -> None:
    logits = torch.randn(300, 80, dtype=torch.float64, device=device, requires_grad=True)
    nothing = torch.zeros(300, dtype=torch.bool, device=device)
    _, mean = dense.own_logit_and_mean_of_others(logits, torch.zeros(300, dtype=torch.int64, device=device), nothing, 0.1)
    mean.backward()
    assert mean == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()
