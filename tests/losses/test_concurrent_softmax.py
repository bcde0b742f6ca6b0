"""Laws of the concurrent softmax."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from reference_impl.losses import concurrent_scores, concurrent_softmax

C = 6


def boxes(device: str) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20, C, generator=generator, dtype=torch.float64)
    has_label = torch.rand(20, C, generator=generator) < 0.3
    return logits.to(device), has_label.to(device), torch.rand(C, C, generator=generator, dtype=torch.float64).to(device)


def test_without_concurrence_one_label_is_softmax(device: str) -> None:
    logits, _, _ = boxes(device)
    labels = torch.arange(20, device=device) % C
    apart = torch.zeros(C, C, device=device)
    loss = concurrent_softmax(logits, one_hot(labels, C).bool(), apart)
    torch.testing.assert_close(loss, cross_entropy(logits, labels, reduction="none"))
    torch.testing.assert_close(concurrent_scores(logits, apart), logits.softmax(-1))


def test_it_is_the_definition(device: str) -> None:
    logits, has_label, concurrence = boxes(device)
    expected = torch.zeros(20, dtype=torch.float64, device=device)
    for b in range(20):
        for i in range(C):
            if has_label[b, i]:
                rivals = [j for j in range(C) if j != i and not has_label[b, j]]
                below = logits[b, i].exp() + sum((1 - concurrence[i, j]) * logits[b, j].exp() for j in rivals)
                expected[b] -= (logits[b, i].exp() / below).log()
    torch.testing.assert_close(concurrent_softmax(logits, has_label, concurrence), expected)


def test_a_class_that_always_comes_along_is_not_pushed_down(device: str) -> None:
    logits, _, _ = boxes(device)
    logits.requires_grad_()
    concurrence = torch.zeros(C, C, device=device)
    concurrence[0, 1] = 1
    concurrent_softmax(logits, one_hot(torch.zeros(20, dtype=torch.int64, device=device), C).bool(), concurrence).sum().backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1] == 0).all()
    assert (logits.grad[:, 2:] > 0).all()


def test_a_common_offset_of_the_logits_does_not_matter(device: str) -> None:
    logits, has_label, concurrence = boxes(device)
    torch.testing.assert_close(concurrent_softmax(logits + 50, has_label, concurrence), concurrent_softmax(logits, has_label, concurrence))
    torch.testing.assert_close(concurrent_scores(logits + 50, concurrence), concurrent_scores(logits, concurrence))


def test_concurrence_only_raises_scores(device: str) -> None:
    logits, _, concurrence = boxes(device)
    assert (concurrent_scores(logits, concurrence) >= logits.softmax(-1)).all()


def test_where_all_classes_are_compared_and_where_a_compiler_traces_the_same_is_found(device: str) -> None:
    logits, has_label, concurrence = boxes(device)
    logits[:5, 0], concurrence[1:, 0] = 400, 1
    compiled = torch.compile(concurrent_softmax, fullgraph=True, backend="aot_eager")
    of_all_classes = torch.vmap(concurrent_softmax, in_dims=(0, 0, None))
    found = []
    for loss in (concurrent_softmax, of_all_classes, compiled):
        x = logits.view(4, 5, C).clone().requires_grad_()
        value = loss(x, has_label.view(4, 5, C), concurrence)
        found.append((value, *torch.autograd.grad(value.sum(), x)))
    expected, *others = found
    for other in others:
        torch.testing.assert_close(other, expected, rtol=1e-12, atol=1e-14)
