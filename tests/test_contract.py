"""What every function of every method keeps, whatever it computes. The arguments come from its signature (`tests/inputs.py`)."""

import inspect
import re
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from tests import faulty
from tests.inputs import (
    AMOUNTS,
    CATALOG,
    EXTREME_BOX,
    MIXED,
    NEVER_EMPTY,
    SIZES,
    drawn,
    functions,
    hyper_parameters,
    make,
    optional,
    outputs,
    shape,
    sizes_of,
    tensors,
)
from tools.golden import parameters, resolve

FUNCTIONS = functions()
MASKS = ("positive", "negative", "valid")

Function = Callable[..., Any]
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())


def variants(function: Function) -> list[list[str]]:
    """Which arguments to leave out: none, and all that may be."""
    return [[], optional(function)] if optional(function) else [[]]


def call(function: Function, arguments: dict[str, Any], **hyper: Any) -> list[Tensor]:
    result = function(**arguments, **hyper)
    return list(result) if isinstance(result, (tuple, list)) else [result]


def differentiable(arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same arguments, and every floating-point one but the random numbers wants a gradient."""
    return {name: x.clone().requires_grad_() if x.is_floating_point() and "noise" not in name else x for name, x in arguments.items()}


def gradients(arguments: dict[str, Tensor], results: list[Tensor], **how: bool) -> dict[str, Tensor]:
    """The gradient of the sum of all results; zeros on an argument that has none."""
    wanted = {name: x for name, x in arguments.items() if x.requires_grad}
    total = sum((r.sum() for r in results if r.requires_grad), torch.zeros((), requires_grad=True))
    found = torch.autograd.grad(total, list(wanted.values()), allow_unused=True, **how) if wanted else ()
    return {name: torch.zeros_like(x) if g is None else g for (name, x), g in zip(wanted.items(), found, strict=True)}


def doc(function: Function) -> str:
    return " ".join((function.__doc__ or "").split())


def weighs(function: Function) -> bool:
    """Whether the results are weights or losses, which are 0 for what does not count."""
    kind = function.__module__.split(".")[1]
    return kind not in ("assignment", "generation", "heads", "pyramids") and all(a.dtype is not Bool for a in outputs(function))


def stops_gradients(function: Function) -> bool:
    """Whether the docstring declares that the gradient is not the derivative of the value."""
    return re.search(r"[Nn]o gradient|not the derivative", doc(function)) is not None


def may_be_negative(function: Function) -> bool:
    return not weighs(function) or re.search(r"(is|may be) negative", doc(function)) is not None


# Signature


@every_function
def test_signature(function: Function) -> None:
    """Tensors first and annotated, then hyper-parameters by keyword with a default; checked; the return type says the shape."""
    assert hasattr(function, "__wrapped__"), "decorate it with @checked"
    for name, p in parameters(function).items():
        tensor = name in tensors(function)
        assert p.kind is (p.POSITIONAL_OR_KEYWORD if tensor else p.KEYWORD_ONLY), f"`{name}`"
        assert tensor or p.default is not p.empty, f"`{name}` has no default"
        assert tensor or not isinstance(p.default, str), f"`{name}` is a string that picks a formula"
    assert all(hasattr(annotation, "dim_str") for annotation in outputs(function))
    assert any("*" in annotation.dim_str for annotation in tensors(function).values()), "no leading batch dimensions"


# Sizes


@every_function
def test_nothing_at_all(function: Function) -> None:
    """No boxes, or no images: results and gradients have the shape they should."""
    names = {dim for annotation in tensors(function).values() for dim in re.findall(r"[a-z]+", annotation.dim_str)}
    empty = [((2,), {name: 0}) for name in sorted(names & SIZES.keys() - NEVER_EMPTY)]
    for (batch, sizes), leave_out in product([*empty, ((0,), {}), ((), {})], variants(function)):
        arguments = differentiable(make(function, batch=batch, sizes=sizes, leave_out=leave_out))
        results = call(function, arguments)
        for result, annotation in zip(results, outputs(function), strict=True):
            assert result.shape == shape(annotation, batch, sizes_of(function) | sizes), (batch, sizes)
            assert result.isfinite().all(), (batch, sizes)
        for name, gradient in gradients(arguments, results).items():
            assert gradient.shape == arguments[name].shape
            assert gradient.isfinite().all(), (name, batch, sizes)


@every_function
def test_large_input_is_treated_alike(function: Function) -> None:
    """Results and gradients do not depend on how much is worked on at once, or on what way is the faster one for so much input."""
    for leave_out in variants(function):
        found = []
        for amount in AMOUNTS:
            arguments = differentiable(make(function, batch=(2,), leave_out=leave_out))
            with amount():
                results = call(function, arguments)
                found.append([result.detach() for result in results] + list(gradients(arguments, results).values()))
        for small, large in zip(*found, strict=True):
            torch.testing.assert_close(large, small, rtol=1e-9, atol=1e-9)


@every_function
def test_a_batch_is_a_loop(function: Function) -> None:
    """Two leading dimensions give what one call for each gives: nothing leaks from one image to another."""
    batch = (2, 3)
    for leave_out in variants(function):
        arguments = make(function, batch=batch, leave_out=leave_out)
        together = call(function, arguments)
        for index in product(*map(range, batch)):
            own = {name: x[index] if "*" in tensors(function)[name].dim_str else x for name, x in arguments.items()}
            for all_of_them, alone in zip(together, call(function, own), strict=True):
                torch.testing.assert_close(all_of_them[index], alone, rtol=1e-12, atol=1e-12)


# Values


@every_function
def test_a_weight_or_loss_is_not_negative(function: Function) -> None:
    for seed, leave_out in product(range(3), variants(function)):
        for result in call(function, make(function, seed=seed, leave_out=leave_out)):
            assert result.isfinite().all()
            assert may_be_negative(function) or (result >= 0).all(), "the docstring does not say that it may be negative"


@every_function
def test_ignored_boxes_weigh_nothing(function: Function) -> None:
    """What is neither positive nor negative, or not valid, has weight or loss 0, and no gradient."""
    arguments = differentiable(make(function, sizes={"n": 29}))
    masks = {name: arguments[name] for name in MASKS if name in arguments}
    if not weighs(function) or not masks or masks.keys() == {"positive"}:
        return
    used = masks.get("valid", torch.tensor(True))
    if "negative" in masks:
        used = used & (masks["negative"] | masks.get("positive", torch.tensor(False)))
    assert not used.all()
    results = call(function, arguments)
    results = [r for r in results if r.shape == used.shape]
    for result in results:
        assert (result[~used] == 0).all()
    for name, gradient in gradients(arguments, results).items():
        assert gradient.shape[: used.dim()] != used.shape or (gradient[~used] == 0).all(), name


@every_function
def test_nothing_valid(function: Function) -> None:
    arguments = make(function)
    nothing = {name: torch.zeros_like(x) if x.dtype is torch.bool else x for name, x in arguments.items()}
    masked = weighs(function) and any(name in MASKS for name in arguments)
    nothing = differentiable(nothing)
    results = call(function, nothing)
    for result in results:
        assert result.isfinite().all()
        assert not masked or (result == 0).all()
    for name, gradient in gradients(nothing, results).items():
        assert gradient.isfinite().all(), name
        assert not masked or (gradient == 0).all(), name


@every_function
@pytest.mark.parametrize("extreme", range(len(EXTREME_BOX) + 1))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_extremes_are_finite(function: Function, dtype: torch.dtype, extreme: int) -> None:
    """Logits of 100, probabilities of 0 and 1, boxes without area, identical ones, ones far apart."""
    for leave_out in variants(function):
        arguments = differentiable(make(function, sizes={"n": 40}, dtype=dtype, extreme=extreme, leave_out=leave_out, batch=(2,)))
        results = call(function, arguments)
        for i, result in enumerate(results):
            assert result.isfinite().all(), f"result {i}"
            assert may_be_negative(function) or (result >= 0).all(), f"result {i}"
        for name, gradient in gradients(arguments, results).items():
            assert gradient.isfinite().all(), name


@every_function
def test_gradient(function: Function) -> None:
    """The gradient is the derivative of the value, or the docstring says where it stops and a golden case says what it is."""
    arguments = differentiable(make(function, batch=(1,), sizes={"n": 4, "c": 2}))
    wanted = [name for name, x in arguments.items() if x.requires_grad]

    def of_floats(*values: Tensor) -> tuple[Tensor, ...]:
        return tuple(r for r in call(function, arguments | dict(zip(wanted, values, strict=True))) if r.is_floating_point())

    flowing = [r for r in of_floats(*(arguments[name] for name in wanted)) if r.requires_grad]
    right = bool(flowing) and torch.autograd.gradcheck(
        of_floats, [arguments[name] for name in wanted], fast_mode=True, raise_exception=False
    )
    if flowing and not right:
        assert stops_gradients(function), "the gradient is not the derivative; if that is meant, say in the docstring where it stops"
        assert has_golden_gradient(function), "a gradient that stops somewhere needs a golden case with `gradient`"
    if not flowing and {"logits", "pred"} & arguments.keys() and all(annotation.dtype is Float for annotation in outputs(function)):
        assert stops_gradients(function), "the gradient is lost"


@every_function
def test_a_gradient_is_the_same_however_it_is_taken(function: Function) -> None:
    """By `torch.func.grad`, and forward, by `torch.func.jvp`, what the backward pass gives."""
    for amount, leave_out in product(AMOUNTS, variants(function)):
        arguments = differentiable(make(function, leave_out=leave_out))
        constant = {name: x.detach() for name, x in arguments.items()}
        with amount():
            results = call(function, arguments)
            expected = gradients(arguments, results)
            if not any(result.requires_grad for result in results):
                continue
            total = partial(sum_of_some, function, constant, [result.requires_grad for result in results])
            given = {name: constant[name] for name in expected}
            direction = {name: torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x) for name, x in given.items()}
            found, (_, slope) = torch.func.grad(total)(given), torch.func.jvp(total, (given,), (direction,))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        along = torch.stack([(expected[name] * direction[name]).sum() for name in given]).sum()
        torch.testing.assert_close(slope, along, rtol=1e-9, atol=1e-9)


def sum_of_some(function: Function, constant: dict[str, Tensor], which: list[bool], given: dict[str, Tensor]) -> Tensor:
    return torch.stack([result.sum() for result, wanted in zip(call(function, constant | given), which, strict=True) if wanted]).sum()


def has_golden_gradient(function: Function) -> bool:
    id = function.__module__.removeprefix("reference_impl.")
    return any(resolve(id, g.call) is function and g.gradient for g in CATALOG.implemented[id].golden)


# Types


@every_function
def test_types_are_kept(function: Function) -> None:
    """float64 and float32 stay, half precision becomes float32; counts are integers."""
    kinds = {Float: lambda r, wide: r.dtype is wide, Bool: lambda r, _: r.dtype is torch.bool, Int: lambda r, _: r.dtype is torch.int64}
    precision = {torch.float64: torch.float64, torch.float32: torch.float32, torch.float16: torch.float32, torch.bfloat16: torch.float32}
    for (given, wide), leave_out in product(precision.items(), variants(function)):
        for result, annotation in zip(call(function, make(function, dtype=given, leave_out=leave_out)), outputs(function), strict=True):
            assert kinds[annotation.dtype](result, wide), f"{given} became {result.dtype}"


@every_function
def test_types_may_be_mixed(function: Function) -> None:
    """Logits as autocast leaves them beside boxes of the data set, or anchors in float64: each counts as the numbers that it is."""
    arguments = make(function, dtype=torch.float32)
    for name, dtype in product(arguments, (torch.bfloat16, torch.float64)):
        if arguments[name].is_floating_point():
            given = arguments | {name: arguments[name].to(dtype)}
            expected = call(function, given | {name: given[name].float()})
            given = differentiable(given)
            results = call(function, given)
            gradients(given, results)
            for result, e in zip(results, expected, strict=True):
                assert result.dtype in (e.dtype, torch.float64), f"`{name}` in {dtype} makes it {result.dtype}"
                torch.testing.assert_close(result.to(e.dtype).nan_to_num(), e.nan_to_num(), rtol=1e-5, atol=1e-5)


@every_function
def test_the_default_device_does_not_matter(function: Function) -> None:
    """What is made on the way is made where the arguments are."""
    arguments = make(function)
    for amount in AMOUNTS:
        with amount():
            expected = call(function, arguments)
            with torch.device("meta"):
                results = call(function, arguments)
        for a, b in zip(results, expected, strict=True):
            assert a.equal(b)


@every_function
def test_the_default_type_does_not_matter(function: Function) -> None:
    """In float64 nothing goes through a number of another type, as what `torch.where` makes of two Python numbers."""
    odd = {name: 1.0371 * default for name, default in hyper_parameters(function).items() if isinstance(default, float)}
    arguments = differentiable(make(function))
    for hyper in (odd if accepted(function, make(function), odd) else {}, {}):
        found = []
        for default in (torch.float32, torch.float64):
            torch.set_default_dtype(default)
            torch.manual_seed(0)
            try:
                results = call(function, arguments, **hyper)
            finally:
                torch.set_default_dtype(torch.float32)
            found.append([result.detach() for result in results] + list(gradients(arguments, results).values()))
        for narrow, wide in zip(*found, strict=True):
            torch.testing.assert_close(narrow, wide, rtol=1e-12, atol=1e-12, equal_nan=True)


@every_function
def test_autocast(function: Function) -> None:
    """Under autocast the result is float32, and the same."""
    arguments = make(function, dtype=torch.float32)
    plain = call(function, arguments)
    for amount in AMOUNTS:
        with amount(), torch.autocast("cpu", dtype=torch.bfloat16):
            automatic = call(function, arguments)
        for a, b in zip(automatic, plain, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@every_function
@pytest.mark.filterwarnings("ignore:There is a performance drop", "ignore:.*non-contiguous")
def test_vmap_is_a_batch(function: Function) -> None:
    """`torch.func.vmap` over a leading dimension, of all arguments or of one, gives what a batch gives."""
    if function.__name__ in NO_VMAP:
        return
    for leave_out in variants(function):
        arguments = make(function, leave_out=leave_out)
        batched = [name for name in arguments if "*" in tensors(function)[name].dim_str]
        for amount, names in product(AMOUNTS, [batched, *([name] for name in batched)]):
            of_all = {name: x for name, x in arguments.items() if name in batched and name not in names}
            with amount():
                found = mapped_over(names, function, arguments | {name: x[0] for name, x in of_all.items()})
            expected = call(function, arguments | {name: x[:1].expand_as(x) for name, x in of_all.items()})
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def mapped_over(names: list[str], function: Function, arguments: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """What the function gives for each place in the leading dimension of these arguments."""
    dims = tuple(0 if name in names else None for name in arguments)
    return torch.func.vmap(lambda *x: tuple(call(function, dict(zip(arguments, x, strict=True)))), dims)(*arguments.values())


# They look at what they have found to know whether to go on, or write it into memory that is not mapped.
NO_VMAP = {
    "anchor_counts",
    "assign_to_branches",
    "hsd_targets",
    "iou_uniform",
    "merge_predictions",
    "sample_rois",
    "shape_targets",
    "snip_ignored_anchors",
    "sniper",
    "ssd_targets",
    "stage_targets",
}


# Manners


@every_function
def test_inputs_are_not_modified(function: Function) -> None:
    arguments = make(function)
    before = {name: x.clone() for name, x in arguments.items()}
    call(function, arguments)
    for name, x in arguments.items():
        assert x.equal(before[name]), name
        assert x._version == 0, name


@every_function
def test_results_are_the_callers_own(function: Function) -> None:
    """They may be changed in place, as where a loss is weighted, and no argument changes with them."""
    for amount in AMOUNTS:
        arguments = differentiable(make(function))
        before = {name: x.detach().clone() for name, x in arguments.items()}
        with amount():
            results = call(function, arguments)
        for result in results:
            result.zero_()
        for name, x in arguments.items():
            assert x.equal(before[name]), name


@every_function
def test_a_gradient_is_that_of_its_call(function: Function) -> None:
    """However it is asked for, hooks see it once, and what becomes of the arguments after the call changes nothing or is refused."""
    leaves = differentiable(make(function))
    if not any(result.requires_grad for result in call(function, leaves)):
        return
    for amount, name in product(AMOUNTS, leaves):
        arguments = {key: x.clone() for key, x in leaves.items()}
        changed = arguments[name].detach()
        with amount():
            plain = gradients(leaves, call(function, leaves))
            for x in arguments.values():
                if x.requires_grad:
                    x.register_hook(torch.neg)
            results = call(function, arguments)
            found = [gradients(leaves, results, retain_graph=True), gradients(leaves, results, create_graph=True)]
            changed.copy_(~changed if changed.dtype is torch.bool else changed + 1)
            try:
                found.append(gradients(leaves, results))
            except RuntimeError as error:
                if "modified" not in str(error):
                    raise
        for gradient, (key, expected) in product(found, plain.items()):
            torch.testing.assert_close(gradient[key], -expected, rtol=1e-12, atol=1e-12)


@every_function
def test_how_numbers_are_stored_does_not_matter(function: Function) -> None:
    """Integers of 32 bits, and elements that are no neighbours in memory."""
    for leave_out in variants(function):
        arguments = make(function, leave_out=leave_out)
        narrow = {name: x.int() if x.dtype is torch.int64 else x for name, x in arguments.items()}
        turned = {name: x.transpose(0, -1).contiguous().transpose(0, -1) for name, x in arguments.items()}
        for given in (narrow, turned):
            for result, expected in zip(call(function, given), call(function, arguments), strict=True):
                torch.testing.assert_close(result, expected, check_dtype=False)


@every_function
def test_two_calls_agree(function: Function) -> None:
    """The result depends on the arguments alone; random numbers come from torch's generator where none are given."""
    arguments = make(function)
    for first, second in zip(call(function, arguments), call(function, arguments), strict=True):
        assert first.equal(second)
    arguments = make(function, leave_out=drawn(function))
    torch.manual_seed(0)
    before = call(function, arguments)
    torch.manual_seed(0)
    for first, second in zip(before, call(function, arguments), strict=True):
        assert first.equal(second)


@every_function
def test_every_parameter_matters(function: Function) -> None:
    """Each keyword-only parameter may be given, its default is what it says, and some other value changes the result."""
    known = hyper_parameters(function)
    few = {name: 4 for name, default in known.items() if type(default) is int}
    trials = [(make(function, sizes={"n": 20}, seed=seed, leave_out=out), few) for seed in range(3) for out in variants(function)]
    trials += [(arguments | {"positive": arguments["positive"] & False}, {}) for arguments, _ in trials if "positive" in arguments]
    trials += [(arguments, {}) for arguments, _ in trials]
    plain = [accepted(function, arguments, hyper) for arguments, hyper in trials]
    for parameter, default in known.items():
        for (arguments, hyper), expected in zip(trials, plain, strict=True):
            if not hyper:
                assert same(call(function, arguments, **{parameter: default}), expected)
        assert any(
            expected and (results := accepted(function, arguments, hyper | {parameter: value})) and not same(results, expected)
            for value in others(default)
            for (arguments, hyper), expected in zip(trials, plain, strict=True)
        ), f"no value of `{parameter}` makes a difference"


def same(some: list[Tensor], others: list[Tensor] | None) -> bool:
    return others is not None and all(a.shape == b.shape and a.equal(b) for a, b in zip(some, others, strict=True))


def others(default: Any) -> list[Any]:
    """Values to try in place of a default."""
    if isinstance(default, bool):
        return [not default]
    if isinstance(default, int):
        return [1, 2, max(1, default // 2), default + 1, 3 * default]
    return [0.25, 1.5] if default is None else [default / 2, default * 2, default + 0.25, default / 16]


def accepted(function: Function, arguments: dict[str, Tensor], hyper: dict[str, Any]) -> list[Tensor] | None:
    try:
        return call(function, arguments, **hyper)
    except ValueError:
        return None


# Errors


@every_function
def test_a_wrong_shape_is_named(function: Function) -> None:
    arguments, known = make(function, batch=(2, 3)), set()
    for name, annotation in tensors(function).items():
        for wrong in wrong_shapes(arguments[name], annotation.dim_str.split(), known):
            with pytest.raises(ValueError, match=re.escape(f"({annotation.dim_str})")) as caught:
                function(**arguments | {name: wrong})
            assert str(caught.value).startswith(f"{function.__name__}: `{name}` has shape {tuple(wrong.shape)}")
        known |= set(annotation.dim_str.split())


@every_function
def test_a_number_that_is_not_positive_is_named(function: Function) -> None:
    """Where the docstring asks of a hyper-parameter to be `> 0`."""
    arguments = make(function)
    for name in hyper_parameters(function):
        if re.search(rf" {name}: [^:]*> 0\$", doc(function)):
            for wrong in (0.0, -1.0, float("nan")):
                with pytest.raises(ValueError, match=f"^{function.__name__}: `{name}` is {wrong}"):
                    function(**arguments, **{name: wrong})


def wrong_shapes(x: Tensor, dims: list[str], known: set[str]) -> list[Tensor]:
    """Variants of an argument that cannot fit: a fixed size, or one that an earlier argument has set, is another."""
    wrong = [x.new_zeros(())] if dims and not dims[-1].startswith("*") else []
    for i, dim in enumerate(reversed(dims), 1):
        if dim.isdigit() or (dim in known and not dim.startswith("*")):
            wrong.append(x.new_zeros([size + (j == x.dim() - i) for j, size in enumerate(x.shape)]))
        elif dim in known:
            wrong.append(x.new_zeros((x.shape[0] + 1, *x.shape[1:])))
    return wrong


@every_function
def test_a_wrong_type_is_named(function: Function) -> None:
    arguments = make(function)
    for name in tensors(function):
        x = arguments[name]
        for wrong in ([1.0, 2.0], *(x.to(dtype) for dtype in WRONG_TYPES[tensors(function)[name].dtype])):
            with pytest.raises(TypeError, match=f"^{function.__name__}: `{name}`"):
                function(**arguments | {name: wrong})


WRONG_TYPES = {
    Float: [torch.int64, torch.bool],
    Bool: [torch.int64, torch.float64],
    Int: [torch.float64, torch.bool],
    Num: [torch.bool],
}


# These tests can fail

FAULTS = {
    faulty.keyword_tensor: [test_signature],
    faulty.divides_by_the_number: [test_nothing_at_all],
    faulty.sums_a_part: [test_large_input_is_treated_alike],
    faulty.normalises_over_images: [test_a_batch_is_a_loop],
    faulty.below_zero: [test_a_weight_or_loss_is_not_negative],
    faulty.weighs_ignored_boxes: [test_ignored_boxes_weigh_nothing],
    faulty.mean_of_the_valid: [test_nothing_valid],
    faulty.loses_the_gradient: [test_gradient],
    faulty.stops_silently: [test_gradient],
    faulty.stops_in_the_backward_pass_alone: [test_a_gradient_is_the_same_however_it_is_taken],
    faulty.stays_half: [test_types_are_kept],
    faulty.narrows: [test_types_are_kept],
    faulty.takes_one_precision: [test_types_may_be_mixed],
    faulty.without_device: [test_the_default_device_does_not_matter],
    faulty.picks_between_numbers: [test_the_default_type_does_not_matter],
    faulty.multiplies_matrices: [test_autocast],
    faulty.reads_a_number: [test_vmap_is_a_batch],
    faulty.fills_in_place: [test_vmap_is_a_batch],
    faulty.takes_long_labels_alone: [test_how_numbers_are_stored_does_not_matter],
    faulty.returns_its_input: [test_results_are_the_callers_own],
    faulty.asks_autograd_again: [test_results_are_the_callers_own, test_a_gradient_is_that_of_its_call],
    faulty.saves_no_tensor: [test_a_gradient_is_that_of_its_call],
    faulty.writes_into_its_input: [test_inputs_are_not_modified],
    faulty.reads_memory_in_order: [test_how_numbers_are_stored_does_not_matter],
    faulty.remembers: [test_two_calls_agree],
    faulty.ignores_its_parameter: [test_every_parameter_matters],
    faulty.takes_any_number: [test_a_number_that_is_not_positive_is_named],
    faulty.unchecked: [test_a_wrong_shape_is_named, test_a_wrong_type_is_named],
}


@pytest.mark.parametrize(("function", "tests"), FAULTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_fault_is_found(function: Function, tests: list[Function]) -> None:
    for test in tests:
        with pytest.raises((AssertionError, AttributeError, pytest.fail.Exception, RuntimeError, TypeError, ValueError)):
            test(function)


@pytest.mark.parametrize("function", [faulty.naive_log, faulty.naive_root], ids=lambda function: function.__name__)
def test_a_fault_at_an_extreme_is_found(function: Function) -> None:
    failed = []
    for extreme in range(MIXED + 1):
        try:
            test_extremes_are_finite(function, torch.float32, extreme)
        except AssertionError:
            failed.append(extreme)
    assert MIXED in failed


def test_a_sound_function_passes() -> None:
    """The faulty functions fail for their fault, not for being strangers: without one, every test passes."""
    for name, test in globals().items():
        if name.startswith("test_") and "fault" not in name and [*inspect.signature(test).parameters] == ["function"]:
            test(faulty.sound)
    for extreme in range(MIXED + 1):
        test_extremes_are_finite(faulty.sound, torch.float32, extreme)
