"""Functions with one fault each. The tests must report them, or they would not report it in a method either."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reference_impl.ops.checked import checked
from reference_impl.ops.dense import row_blocks
from reference_impl.ops.numerics import safe_divide, widen

Values = Float[Tensor, "*batch n"]
Mask = Bool[Tensor, "*batch n"]


@checked
def sound(score: Values, valid: Mask, *, gamma: float = 2.0) -> Values:
    return torch.where(valid, widen(score) ** gamma, 0)


# What a user sees


@checked
def keyword_tensor(score: Values, *, valid: Mask | None = None) -> Values:
    return widen(score) if valid is None else torch.where(valid, widen(score), 0)


@checked
def divides_by_the_number(score: Values) -> Float[Tensor, "*batch"]:
    return widen(score).mean(-1)


@checked
def sums_a_part(score: Values) -> Values:
    return widen(score) / widen(score)[row_blocks(score)[0]].sum()


@checked
def normalises_over_images(score: Values) -> Values:
    return safe_divide(widen(score), widen(score).sum())


@checked
def below_zero(score: Values) -> Values:
    return widen(score) - 0.5


@checked
def weighs_ignored_boxes(score: Values, positive: Mask, negative: Mask) -> Values:
    return torch.where(positive, widen(score), 1)


@checked
def mean_of_the_valid(score: Values, valid: Mask) -> Float[Tensor, "*batch"]:
    return (widen(score) * valid).sum(-1) / valid.sum(-1)


@checked
def stays_half(score: Values) -> Values:
    return score * score


@checked
def picks_between_numbers(score: Values) -> Values:
    return widen(score) * torch.where(score > 0.5, 0.1, 0.3)


@checked
def narrows(score: Values) -> Values:
    return score.float() * score.float()


@checked
def takes_one_precision(score: Values, loss: Values) -> Values:
    return torch.lerp(widen(score), widen(loss), 0.5)


@checked
def takes_long_labels_alone(labels: Int[Tensor, "*batch n"]) -> Values:
    return torch.nn.functional.one_hot(labels.clamp(0, 1), 2)[..., 0].float()


@checked
def multiplies_matrices(score: Values) -> Values:
    return widen(score) @ torch.full((score.shape[-1], score.shape[-1]), 0.3, dtype=widen(score).dtype, device=score.device)


@checked
def writes_into_its_input(score: Values) -> Values:
    return score.clamp_(min=0.5)


@checked
def returns_its_input(score: Values) -> Values:
    return widen(score.detach())


@checked
def reads_memory_in_order(score: Values) -> Values:
    return widen(score.as_strided(score.shape, torch.empty(score.shape).stride()))


_calls: list[int] = []


@checked
def remembers(score: Values) -> Values:
    _calls.append(1)
    return widen(score) * len(_calls)


@checked
def ignores_its_parameter(score: Values, *, gamma: float = 2.0) -> Values:
    return widen(score) ** 2


@checked
def takes_any_number(score: Values, *, beta: float = 1.0) -> Values:
    r"""Divides without a look.

    Args:
        score: what to divide.
        beta: $\beta > 0$, by which.
    """
    return widen(score) * beta


def unchecked(score: Values, valid: Mask) -> Values:
    return torch.where(valid, widen(score), 0)


# Gradients


@checked
def loses_the_gradient(logits: Values) -> Values:
    return widen(logits.detach()) ** 2


@checked
def stops_silently(score: Values) -> Values:
    return widen(score) * widen(score.detach())


@checked
def stops_in_the_backward_pass_alone(score: Values) -> Values:
    """No gradient by the factor."""
    with torch.no_grad():
        factor = widen(score) * 1
    return widen(score) * factor


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, hooked: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.factor, ctx.hooked = factor, hooked
        return (x * factor).flatten().view_as(x)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            x = x if ctx.hooked else x.view_as(x)
            product = x * ctx.factor
        return *torch.autograd.grad(product, x, outer, create_graph=torch.is_grad_enabled()), None, None


@checked
def asks_autograd_again(score: Values) -> Values:
    return _Product.apply(widen(score), torch.full_like(widen(score), 3.0), True)


@checked
def saves_no_tensor(score: Values, loss: Values) -> Values:
    return _Product.apply(widen(score), widen(loss.detach()), False)


@checked
def naive_log(score: Values) -> Values:
    return -(widen(score) * widen(score).log())


@checked
def naive_root(loss: Values) -> Values:
    return widen(loss).sqrt()


# What only another device shows: see tests/fake_gpu.py


@checked
def without_device(score: Values) -> Values:
    return widen(score) * torch.arange(score.shape[-1])


@checked
def constant_on_the_cpu(score: Values) -> Values:
    return torch.cat((widen(score), torch.zeros(*score.shape[:-1], 1)), -1)[..., :-1]


@checked
def fills_in_place(score: Values, valid: Mask) -> Values:
    return widen(score).clone().masked_fill_(~valid, 0)


@checked
def reads_a_number(score: Values) -> Values:
    return widen(score) / widen(score).max().item()


@checked
def selects_by_mask(score: Values, valid: Mask) -> Values:
    return widen(score)[valid].sum().expand_as(score)


@checked
def assigns_by_mask(score: Values, valid: Mask) -> Values:
    weight = torch.zeros_like(widen(score))
    weight[valid] = 1.0
    return weight


@checked
def branches_on_a_tensor(score: Values) -> Values:
    return widen(score) if score.sum() > 0 else widen(score) * 2


@checked
def lists_indices(score: Values, valid: Mask) -> Values:
    return widen(score) * valid.nonzero().shape[0]


@checked
def visits_the_cpu(score: Values) -> Values:
    return widen(score).cpu().cumsum(-1).to(score.device)


@checked
def returns_on_the_cpu(score: Values) -> Values:
    return widen(score).cpu()


@checked
def counts_distinct(score: Values) -> Values:
    return widen(score) * len(score.unique())


@checked
def specialises(score: Values) -> Values:
    total = widen(score)
    for i in range(score.shape[-1]):
        total = total + i
    return total
