"""Floating-point manners: half precision is widened, float64 is kept, and a division by zero has a value and a gradient."""

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.nn.functional import nll_loss

__all__ = [
    "entropy_of_class",
    "host_may_look",
    "in_full_precision",
    "is_plain",
    "nonnegative",
    "safe_divide",
    "safe_log",
    "unhooked",
    "widen",
]

HALF = {torch.float16, torch.bfloat16}


def widen(x: Tensor) -> Tensor:
    """`x` in float32 if it is in half precision, and unchanged otherwise."""
    return x.float() if x.dtype in HALF else x


def in_full_precision(x: Tensor) -> torch.autocast:
    """A context in which matrices like `x` are multiplied in their own precision, under autocast, too."""
    return torch.autocast(x.device.type, enabled=False)


def safe_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """`numerator / denominator`, and 0 with gradient 0 where the denominator is 0."""
    return numerator / denominator.masked_fill(denominator.logical_not(), torch.inf)


def nonnegative(x: Tensor) -> Tensor:
    """`x`, and 0 below 0 (by a normal number). At 0 the gradient is that from above; what `clamp` has there depends on torch's version."""
    return torch.threshold(x, -torch.finfo(x.dtype).tiny, 0)


def safe_log(x: Tensor) -> Tensor:
    """Natural logarithm of `x` >= 0; below the smallest normal number its value there, with gradient 0."""
    return x.clamp(min=torch.finfo(x.dtype).tiny).log()


def entropy_of_class(log_share: Tensor, index: Tensor) -> Tensor:
    """Minus the logarithm of each row's share for the class with this index. One batch needs no views, which little input feels.

    Args:
        log_share: `[*batch n c]`, as from `log_softmax`.
        index: `[*batch n]`, from 0 to c - 1.
    """
    if index.dim() == 1:
        return nll_loss(log_share, index, reduction="none")
    return nll_loss(log_share.flatten(0, -2), index.flatten(), reduction="none").view_as(index)


def is_plain(x: Tensor) -> bool:
    """Whether `x` is its values: nothing is compiled, and no transform of `torch.func` and no forward-mode derivative is running."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or torch._C._functorch.is_legacy_batchedtensor(x):
        return False
    return unpack_dual(x).tangent is None  # type: ignore[no-untyped-call]


def host_may_look(x: Tensor) -> bool:
    """Whether the host may ask for values of `x`: it would have to wait for another device, and a graph or a transform has none."""
    return x.device.type == "cpu" and is_plain(x)


def unhooked(x: Tensor) -> Tensor:
    """`x` for a backward pass that differentiates a formula by it: what hooks do to the gradient of `x` itself is done to the outcome."""
    return x.view_as(x)
