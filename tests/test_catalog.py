"""What a contributor sees: each slip is named with its place, all slips of a run are, and nothing ends in a traceback.

A file of `tests/bad_catalog/` has one kind of slip, and says in comments what the check must answer:
`# expect: line:column: field: message`.
"""

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.inputs import CATALOG
from tools.__main__ import main
from tools.catalog import ROOT, Catalog, load
from tools.checks import check
from tools.golden import cases
from tools.records import Method, Result
from tools.scaffold import start
from tools.strict_yaml import MAX_BYTES, Document

BAD = Path(__file__).parent / "bad_catalog"
PAPERS = sorted((ROOT / "catalog" / "papers").glob("*.yaml"))
ENTRY_OF_A_MODULE = """\
title: A Method
authors: [Jane Doe]
venue: CVPR
year: 2020
source: made up
methods:
  losses.a_method:
    name: A Method
    addresses: [regression_loss.iou_based]
    stage: detection
    summary: It does something.
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with all implementations and no papers."""
    (tmp_path / "catalog" / "papers").mkdir(parents=True)
    for name in ("fixtures.yaml", "taxonomy.yaml"):
        shutil.copy(ROOT / "catalog" / name, tmp_path / "catalog")
    (tmp_path / "catalog" / "ops.yaml").write_text("functions: {}\n")
    shutil.copytree(ROOT / "reference_impl", tmp_path / "reference_impl", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def place(bad: Path, root: Path) -> str:
    """Put a bad file where it belongs. Returns its name there."""
    name = f"catalog/papers/doe2020{bad.stem.replace('_', '')}.yaml"
    if bad.suffix == ".py":
        if bad.stem != "without_entry":
            (root / name).write_text(ENTRY_OF_A_MODULE)
        name = "reference_impl/losses/a_method.py"
    shutil.copy(bad, root / name)
    return name


def expected(bad: Path, name: str) -> list[str]:
    lines = re.findall(r"^# expect: (.*)$", bad.read_text("utf-8", errors="replace"), re.MULTILINE)
    return sorted(f"{name}:{line}" for line in lines)


def found(root: Path, name: str) -> list[str]:
    return sorted(str(problem) for problem in check(load(root)) if problem.file == name)


@pytest.mark.parametrize("bad", sorted(BAD.iterdir()), ids=lambda path: path.name)
def test_a_slip_is_named(bad: Path, root: Path) -> None:
    name = place(bad, root)
    assert expected(bad, name)
    assert found(root, name) == expected(bad, name)


def test_an_oversized_file_is_refused(root: Path) -> None:
    (root / "catalog/papers/doe2020long.yaml").write_text("title: " + "x" * MAX_BYTES)
    assert found(root, "catalog/papers/doe2020long.yaml") == [
        f"catalog/papers/doe2020long.yaml:1:1: the file is larger than {MAX_BYTES} bytes"
    ]


def test_a_formula_without_end_is_refused(root: Path) -> None:
    """Thousands of nested braces would end the process inside the TeX parser."""
    equation = f"status: cited\n    equations: [{{source: made up, tex: '{'{' * 50_000}'}}]\n"
    (root / "catalog/papers/doe2020deep.yaml").write_text(ENTRY_OF_A_MODULE + "    " + equation)
    assert found(root, "catalog/papers/doe2020deep.yaml") == [
        "catalog/papers/doe2020deep.yaml:13:40: methods.losses.a_method.equations[0].tex: TeX: the formula is longer than 1000 characters"
    ]


def test_what_is_no_file(root: Path) -> None:
    papers = root / "catalog" / "papers"
    (papers / "folder2020is.yaml").mkdir()
    (papers / "link2020broken.yaml").symlink_to("nowhere")
    (papers / "notes.txt").write_bytes(b"\xff")
    lines = [str(problem) for problem in load(root).problems]
    assert lines == [
        "catalog/papers/folder2020is.yaml:1:1: cannot be read: Is a directory",
        "catalog/papers/link2020broken.yaml:1:1: the file is missing",
        "catalog/papers/notes.txt:1:1: only <key>.yaml files belong here",
    ]


def run_the_check(root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools", "check"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, env=environment)


def test_all_slips_of_a_run_are_named(root: Path) -> None:
    """Many broken files at once, from the command line, on a terminal that knows ASCII only."""
    shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    expect = []
    for bad in sorted(BAD.glob("*.yaml")):
        if bad.stem != "without_entry":
            expect += expected(bad, place(bad, root))
    (root / "catalog/papers/doe2020.yaml").write_text("tïtle: A Method")
    run = run_the_check(root, PYTHONIOENCODING="ascii")
    assert set(expect) <= set(run.stdout.splitlines())
    assert "catalog/papers/doe2020.yaml:1:8: t\\xeftle: there is no such field" in run.stdout
    assert run.returncode == 1
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('"""."""\n__all__ = ["giou_loss"]\ndef giou_loss(): ...\nraise SystemExit(0)\n', "4:1: cannot be imported: SystemExit: 0"),
        ('"""."""\n__all__ = ["giou_loss", "x"]\ngiou_loss = x = 1', "1:1: __all__: `x` is no function and no module that this file"),
        (
            '"""."""\nfrom torch import Tensor\n__all__ = ["giou_loss"]\ndef giou_loss(pred: Tensor) -> Tensor: ...',
            '4:1: `pred` of giou_loss has no type that can be checked; expected a tensor with its shape, as Float[Tensor, "*batch 4"]',
        ),
    ],
    ids=["exits", "exports a number", "has no types"],
)
def test_a_broken_module_is_named(text: str, line: str, root: Path) -> None:
    """In a process of its own, because the module is imported. It does not take its neighbours with it."""
    shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "catalog/papers/rezatofighi2019generalized.yaml", root / "catalog/papers")
    (root / "reference_impl/losses/giou_loss.py").write_text(text)
    run = run_the_check(root)
    assert f"reference_impl/losses/giou_loss.py:{line}" in run.stdout
    assert run.stdout.count("cannot be imported") <= 1
    assert run.returncode == 1
    assert "Traceback" not in run.stderr


def test_one_broken_file_is_one_line(catalog: Catalog) -> None:
    """What others say of a method does not become wrong because the method's file cannot be read for the moment."""
    key = catalog.paper_of["losses.focal_loss"]
    assert any(relation.to == "losses.focal_loss" for method in catalog.methods.values() for relation in method.relations)
    broken = Catalog(ROOT, catalog.taxonomy, documents=catalog.documents, named=catalog.named)
    broken.papers = {other: paper for other, paper in catalog.papers.items() if other != key}
    assert not [p for p in check(broken) if "losses.focal_loss" in p.message]


# Anything at all

SNIPPETS = ["no", "true", "null", "0", ".inf", "1e-4", "1.0e999", "2020-01-01", "{}", "[]", "[", "{", "]", "}", "- ", "? ", ": ", "#", "|"]
SNIPPETS += [
    ">-",
    "&a",
    "*a",
    "---",
    '"',
    "'",
    "\\",
    "@",
    "é",
    "😀",
    "$\\frac{$",
    "{{",
    "%YAML",
    "!!python/object:x",
    "!!binary aGk=",
    "!!set {a}",
]
SNIPPETS += ["!!int abc", "!tag", '"\\ud800"', '"\\x00"', "<<<<<<< HEAD\n", "\t", "\r\n", "\ufeff", "\x85", "? [a]\n: b", "<<: {a: 1}"]
SNIPPETS += ["[" * 25, "x" * 5000, "9" * 30]


def mutated(text: str, random: random.Random) -> str:
    lines = text.split("\n")
    for _ in range(random.choice([1, 1, 2, 5])):
        i, j = random.randrange(len(lines)), random.randrange(len(lines))
        column = random.randrange(len(lines[i]) + 1)
        name = lines[i].partition(":")[0]
        lines[i] = random.choice(
            [
                lines[i][:column] + random.choice(SNIPPETS) + lines[i][column:],
                lines[i][:column] + lines[i][column + 1 :],
                f"{name}: {random.choice(SNIPPETS)}",
                " " * random.randrange(8) + lines[i].lstrip(),
                f"{lines[i]}\n{lines[j]}",
                lines[j],
                "",
            ]
        )
    return "\n".join(lines[: random.choice([len(lines)] * 9 + [len(lines) // 2])])


def test_a_forgotten_export_is_named(root: Path) -> None:
    shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "catalog/papers/rezatofighi2019generalized.yaml", root / "catalog/papers")
    package = root / "reference_impl/losses/__init__.py"
    package.write_text(re.sub(r"(?m)^from reference_impl.losses.giou_loss .*$|^    \"giou_loss\",$", "", package.read_text()))
    assert "reference_impl/losses/__init__.py:1:1: does not export `giou_loss` of giou_loss.py" in run_the_check(root).stdout


def test_a_new_entry_asks_for_what_a_citation_needs(root: Path) -> None:
    start(root, "doe2021example", "losses.example_loss")
    method = "methods.losses.example_loss."
    asked = {line.split(": ")[1] for line in found(root, "catalog/papers/doe2021example.yaml")}
    assert asked == {"title", "authors", "venue", "source", *(method + x for x in ("name", "addresses", "stage", "summary"))}


@pytest.mark.parametrize("seed", range(4))
def test_anything_gives_lines(seed: int, root: Path) -> None:
    """Files damaged at random: problems with a place in the file, one line each, and never an exception."""
    draw = random.Random(seed)
    folder = root / "catalog" / "papers"
    for i in range(50):
        text = mutated(draw.choice(PAPERS).read_text(), draw)
        (folder / f"doe2020x{i}.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    for problem in check(load(root)):
        assert re.fullmatch(r"[\w/.]+:[1-9]\d*:[1-9]\d*: .+", str(problem))
        if problem.file.startswith("catalog/papers"):
            assert problem.place[0] <= (root / problem.file).read_bytes().count(b"\n") + 2


# The catalog itself


def test_the_catalog_is_well(catalog: Catalog) -> None:
    assert [str(problem) for problem in check(catalog)] == []


def test_the_schema_accepts_every_paper(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And refuses what the check refuses: an editor that knows the schema underlines it while one types."""
    monkeypatch.setattr(sys, "argv", ["tools", "schema"])
    assert main() == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    # An editor reads the patterns as JavaScript does, where a backslash before a quote is an error.
    assert not [pattern for pattern in patterns(schema) if re.search(r"""\\["'`]""", pattern)]
    validator = jsonschema.Draft202012Validator(schema)
    for path in PAPERS:
        assert [error.message for error in validator.iter_errors(Document(path.name, path.read_text()).data)] == []
    for name in ("missing_field", "unknown_field", "unknown_stage", "wrong_type", "arxiv_as_a_number", "javascript_url", "several"):
        assert not validator.is_valid(Document(name, (BAD / f"{name}.yaml").read_text()).data), name


def patterns(schema: Any) -> Iterator[str]:
    """Every regular expression in a JSON Schema."""
    if isinstance(schema, dict):
        yield from ([schema["pattern"]] if isinstance(schema.get("pattern"), str) else [])
    for child in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from patterns(child)


def results() -> Iterator[tuple[str, Method, Result]]:
    for id, method in CATALOG.methods.items():
        for result in method.results:
            if None not in (result.baseline_value, result.value, result.printed_gain):
                yield id, method, result


RESULTS = list(results())


@pytest.mark.parametrize(("id", "method", "result"), RESULTS, ids=[f"{id}: {result.source}" for id, _, result in RESULTS])
def test_a_quoted_gain_follows_from_its_numbers(id: str, method: Method, result: Result, catalog: Catalog) -> None:
    """Or an erratum says that the printed figure does not."""
    assert result.baseline_value
    assert result.value is not None
    assert result.printed_gain is not None
    gain = 100 * (result.value - result.baseline_value) / result.baseline_value
    if abs(gain - result.printed_gain) > 0.05 + 1e-9:
        assert catalog.taxonomy
        errata = [*method.errata, *(erratum for erratum in catalog.taxonomy.errata if id in erratum.methods)]
        mentions = rf"(?<![\d.]){re.escape(f'{result.printed_gain:g}')}(?!\d|\.\d)"
        assert any(re.search(mentions, erratum.printed) for erratum in errata), f"{gain:.2f} %, not {result.printed_gain} %"


@pytest.mark.parametrize("number", range(1, 23))
def test_an_equation_of_the_survey_has_a_golden_case(number: int, catalog: Catalog) -> None:
    assert any(number in case.golden.survey_equations for case in cases(catalog))
