"""Time, memory and result of a call with its backward."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

THREADS = 1
REPETITIONS = 5
LEAST_SECONDS = 0.01
SLOW_SECONDS = 3.0
AGREE = 0.999
NEAR = 1e-3

Function = Callable[..., Any]
Arguments = dict[str, Any]


def take_turns(variants: dict[str, Function], given: Arguments) -> dict[str, float]:
    """Median milliseconds of each variant, all of which have to agree. What takes very long runs once."""
    times = {key: [seconds] for key, seconds in _first_runs(variants, given).items()}
    for key, function in list(variants.items()) * (REPETITIONS - 1):
        if times[key][0] < SLOW_SECONDS:
            loops = int(LEAST_SECONDS / times[key][0]) + 1
            times[key].append(sum(once(function, given)[0] for _ in range(loops)) / loops)
    return {key: 1000 * statistics.median(t) for key, t in times.items()}


def _first_runs(variants: dict[str, Function], given: Arguments) -> dict[str, float]:
    """Seconds of each variant, of its second run unless that would take very long."""
    seconds = {}
    expected: list[Tensor] = []
    for key, function in variants.items():
        seconds[key], found = once(function, given)
        expected = expected or found
        if not agree(found, expected):
            raise ValueError(f"{key} and {next(iter(variants))} do not agree")
        if seconds[key] < SLOW_SECONDS:
            seconds[key], _ = once(function, given)
    return seconds


def once(function: Function, given: Arguments) -> tuple[float, list[Tensor]]:
    """Seconds of the processor's time for a forward and, where there is one, a backward of the sum; the results and the gradients."""
    inputs = _without_gradients(given)
    start = time.process_time()
    found = leaves(function(**given))
    _backward(found)
    seconds = time.process_time() - start
    return seconds, [x.detach() for x in found] + [x.grad for x in inputs if x.grad is not None]


def _without_gradients(given: Arguments) -> list[Tensor]:
    """The tensors that are given, whose gradients of the last run are let go."""
    inputs = [x for x in given.values() if isinstance(x, Tensor)]
    for x in inputs:
        x.grad = None
    return inputs


def leaves(result: Any) -> list[Tensor]:
    """The tensors of a result, which may be one or a tree of them."""
    return [result] if isinstance(result, Tensor) else [x for part in result for x in leaves(part)]


def _backward(found: list[Tensor]) -> None:
    if differentiable := [x.sum() for x in found if x.requires_grad]:
        torch.autograd.backward(differentiable)


def agree(found: list[Tensor], expected: list[Tensor], share: float = AGREE) -> bool:
    """Whether nearly all numbers are the same: rounding may put a value on the other side of an edge, as of a bin."""
    return len(found) == len(expected) and all(_near(a, b) >= share for a, b in zip(found, expected, strict=True))


def _near(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return 0.0
    a, b = a.float(), b.float()
    scale = float(b.abs().max()) if b.numel() else 0.0
    return float(a.isclose(b, rtol=NEAR, atol=NEAR * scale).float().mean()) if a.numel() else 1.0


def peak(function: Function, given: Arguments) -> int:
    """The most bytes that tensors made in a run hold at one time, gradients included, as torch's profiler sees them come and go."""
    _without_gradients(given)
    return most_held(lambda: once(function, given))


def most_held(run: Callable[[], object]) -> int:
    """The largest sum of the memory events of a run."""
    # Events are kept, as some versions of torch warn that a second run would lose those of the first.
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
        run()
    held = most = 0
    results: Any = profile.profiler and profile.profiler.kineto_results
    events = [e for e in results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
