"""Gradients that are defined rather than derived."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["with_gradient"]


def with_gradient(
    value: Float[Tensor, "*batch"], x: Float[Tensor, "*batch n"], gradient: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch"]:
    """`value`, with `gradient` for its derivative by `x`.

    Args:
        value: a loss.
        x: what the gradient is handed to.
        gradient: a constant.
    """
    # A compiler takes no function that knows its derivative forward, too.
    handed = _WithGradient if torch.compiler.is_compiling() else _WithGradientBothWays
    given: Tensor = handed.apply(value, x, gradient)  # type: ignore[no-untyped-call]
    return given


class _WithGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[None, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return None, outer[..., None] * gradient, None


class _WithGradientBothWays(_WithGradient):
    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        _WithGradient.setup_context(ctx, inputs, output)
        ctx.save_for_forward(inputs[2])

    @staticmethod
    def jvp(ctx: Any, of_value: Tensor | None, of_x: Tensor, of_gradient: Tensor | None) -> Tensor:
        slope: Tensor = (ctx.saved_tensors[0] * of_x).sum(-1)
        return slope
