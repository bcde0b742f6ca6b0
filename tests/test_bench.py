"""The benchmark compares like with like, and its page can be written and read."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tools.bench import growth, page, simulation
from tools.bench.baselines import BASELINES
from tools.bench.cases import Case, cases
from tools.bench.measure import agree, leaves, once, peak, take_turns
from tools.catalog import load


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_plain_form_gives_the_same_values_and_gradients(case: Case) -> None:
    given = case.arguments(case.small)
    found, expected = (once(function, given)[1] for function in (case.function, BASELINES[case.id]))
    assert any(x.unique().numel() > 1 or x.dim() == 0 for x in expected), "nothing to compare"
    assert agree(found, expected, share=1.0)


def test_a_result_is_compared_leaf_by_leaf_with_its_gradients() -> None:
    def square(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return x**2, [x > 0]

    def same_value_other_gradient(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return x * x.detach(), [x > 0]

    def other_mask(x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return x**2, [x < 0]

    given = {"x": torch.arange(-2.0, 3.0).requires_grad_()}
    assert len(leaves(square(given["x"]))) == 2
    assert take_turns({"plain": square, "ours": square}, given).keys() == {"plain", "ours"}
    for wrong in (same_value_other_gradient, other_mask):
        with pytest.raises(ValueError, match="wrong and plain do not agree"):
            take_turns({"plain": square, "wrong": wrong}, given)


def test_a_scalar_and_a_shape_must_fit_and_few_numbers_of_many_may_not() -> None:
    many = torch.ones(10_000)
    one_off = many.clone()
    one_off[0] = 2
    assert agree([one_off], [many])
    assert not agree([one_off], [many], share=1.0)
    assert not agree([torch.tensor(1.0)], [torch.tensor(1.01)])
    assert not agree([many], [many[1:]])
    assert not agree([many], [])


def test_the_peak_holds_the_gradient_whether_or_not_there_was_one_before() -> None:
    given = {"input": torch.ones(2**20, requires_grad=True)}
    first, second = (peak(torch.exp, given) for _ in range(2))
    assert first == second >= 2 * given["input"].nbytes


def test_a_table_is_read_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "benchmarks.md"
    copy.write_text(page.PAGE.read_text())
    monkeypatch.setattr(page, "PAGE", copy)
    for table in page.TABLES:
        page.write(table, [f"| {table}, 10 boxes | 12.5 | 3 |", "| failing | failed | |"])
    for table in page.TABLES:
        assert page.milliseconds(copy, table) == {table: "12.5 ms"}
    assert copy.read_text().count("Measured on") == len(page.TABLES)


def test_growth_leaves_the_plain_form_out_where_it_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "SCORES", (200, 400))
    monkeypatch.setattr(growth, "LONGEST_SECONDS", 0.0)
    first, second = ([cell.strip() for cell in row.split("|")] for row in growth.rows(["alrp_loss"]))
    assert first[1:3] == ["alrp_loss", "200"]
    assert all(first[3:8])
    assert [bool(cell) for cell in second[3:8]] == [True, False, False, True, False]


def test_a_new_loss_needs_no_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "BASELINES", {"losses.l1_loss": BASELINES["losses.l1_loss"]})
    assert [row.split()[1] for row in simulation.rows(load(), [], points=1)] == ["l1_loss"]


def test_the_simulation_takes_the_same_step_with_the_plain_form_of_each_loss() -> None:
    rows = list(simulation.rows(load(), [], points=1))
    assert len(rows) > 10
    assert all(len(row.split("|")) == len(simulation.HEADER[0].split("|")) for row in rows)
