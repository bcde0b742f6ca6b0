"""Functions that a compiler does not look into."""

import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar

import torch

__all__ = ["opaque"]

F = TypeVar("F", bound=Callable[..., Any])


def opaque(like: Callable[..., Any]) -> Callable[[F], F]:
    """Make a function one node of a graph where `torch.compile` or `torch.export` traces, and leave it as it is elsewhere.

    That suits what takes time by the values of its input, such as by the number of objects, where a graph has to be ready for the most.

    Args:
        like: from the same arguments, empty tensors of the shape and dtype of the results. No gradient passes.
    """

    def decorate(function: F) -> F:
        name = re.sub(r"\W", "_", f"{function.__module__}.{function.__name__}")
        node = torch.library.custom_op(f"imbalance_atlas::{name}", function, mutates_args=())
        node.register_fake(like)

        @functools.wraps(function)
        def wrapper(*given: Any) -> Any:
            return node(*given) if torch.compiler.is_compiling() else function(*given)

        return wrapper  # type: ignore[return-value]

    return decorate
