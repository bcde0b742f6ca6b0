"""Steps that are repeated come out the same, however a graph holds them."""

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from reference_impl.ops.repeat import repeated


def fibonacci(now: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    return now + before, now.clone()


def after(times: int, start: Tensor) -> tuple[Tensor, ...]:
    return repeated(fibonacci, (start, torch.zeros_like(start)), times)


@pytest.mark.parametrize(("times", "expected"), [(0, 1), (1, 1), (2, 2), (9, 55)])
def test_so_many_steps_are_taken(times: int, expected: int, device: str) -> None:
    start = torch.ones(3, dtype=torch.int64, device=device)
    for function in (after, torch.compile(after, fullgraph=True, backend="eager")):
        assert function(times, start)[0].tolist() == [expected] * 3


def test_a_graph_does_not_grow_with_the_steps(device: str) -> None:
    start, lengths = torch.ones(3, device=device), []
    for times in (2, 200):
        counter = CompileCounterWithBackend("eager")
        torch.compile(after, fullgraph=True, dynamic=False, backend=counter)(times, start)
        lengths.append(len(counter.graphs[0].graph.nodes))
    assert lengths[0] == lengths[1]


def test_nothing_stays_nothing(device: str) -> None:
    nothing = torch.ones(0, device=device)
    for function in (after, torch.compile(after, fullgraph=True, backend="eager")):
        assert [x.shape for x in function(5, nothing)] == [(0,), (0,)]
