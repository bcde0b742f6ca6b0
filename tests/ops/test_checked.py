import inspect
import pickle
import re

import pytest
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from reference_impl.losses import l1_loss
from reference_impl.ops import checked as module
from reference_impl.ops.checked import checked


@checked
def weighted(
    x: Float[Tensor, "*batch n"],
    valid: Bool[Tensor, "*batch n"] | None = None,
    count: Int[Tensor, "*batch"] | int = 3,
    *,
    power: float = 2.0,
) -> tuple[Tensor, Tensor | None, Tensor | int, float]:
    """Gives back what it is given."""
    return x, valid, count, power


def test_all_arguments_arrive():
    x, valid = torch.rand(2, 3), torch.ones(2, 3, dtype=torch.bool)
    assert weighted(x) == (x, None, 3, 2.0)
    assert weighted(x, valid, 4, power=1.0) == (x, valid, 4, 1.0)
    assert weighted(power=0.5, valid=None, x=x) == (x, None, 3, 0.5)


def test_what_a_function_says_of_itself_stays():
    assert weighted.__name__ == "weighted"
    assert weighted.__doc__ == "Gives back what it is given."
    assert list(inspect.signature(weighted).parameters) == ["x", "valid", "count", "power"]
    assert pickle.loads(pickle.dumps(l1_loss)) is l1_loss


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "weighted: `x` is a list; expected a floating-point tensor of shape (*batch n)"),
        ({"x": None}, TypeError, "weighted: `x` is a NoneType; expected a floating-point tensor of shape (*batch n)"),
        ({"valid": torch.ones(2, 3)}, TypeError, "weighted: `valid` has dtype torch.float32; expected a bool tensor of shape (*batch n)"),
        ({"count": torch.ones(2)}, TypeError, "weighted: `count` has dtype torch.float32; expected an integer tensor of shape (*batch)"),
        ({"count": 3.0}, TypeError, "weighted: `count` is a float; expected an integer tensor of shape (*batch)"),
        ({"valid": torch.ones(2, 4).bool()}, ValueError, "expected a bool tensor of shape (*batch n), where *batch = (2,), n = 3"),
    ],
)
def test_an_error_comes_each_time(given, error, message):
    """Also after arguments that are sound, and after the same wrong ones."""
    sound = {"x": torch.rand(2, 3), "valid": torch.ones(2, 3, dtype=torch.bool), "count": torch.tensor([1, 2])}
    for _ in range(2):
        weighted(**sound)
        with pytest.raises(error, match=re.escape(message)):
            weighted(**sound | given)


def test_python_names_a_missing_argument():
    with pytest.raises(TypeError, match=r"weighted\(\) missing 1 required positional argument: 'x'"):
        weighted()
    with pytest.raises(TypeError, match=r"weighted\(\) got an unexpected keyword argument 'gamma'"):
        weighted(torch.rand(3), gamma=1.0)


def test_what_passed_is_looked_at_once(monkeypatch):
    looked_at = []
    monkeypatch.setattr(module, "_check", lambda function, name, *rest: looked_at.append(name))
    for _ in range(3):
        weighted(torch.rand(5, 7), power=1.0)
    weighted(torch.rand(5, 7).half())
    assert looked_at == ["x", "x"]


def test_no_more_is_remembered_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 2)
    for _ in range(2):
        for n in range(5):
            weighted(torch.rand(n))
        with pytest.raises(ValueError, match="`valid`"):
            weighted(torch.rand(3), torch.ones(4, dtype=torch.bool))
