"""The catalog as typed records: read, checked against the types and against itself."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tools.records import Fixture, Fixtures, Golden, Imbalance, ImbalanceType, Method, Mistake, Ops, Paper, Taxonomy
from tools.strict_yaml import Document, Problem, looks_like_a_number

R = TypeVar("R", bound=BaseModel)
T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[1]
_ENTRY = re.compile(r"^ +([a-z]+\.[a-z][a-z0-9_]*):", re.MULTILINE)


@dataclass
class Catalog:
    """All of `catalog/`, and every problem found while reading it.

    `named` has the ids of all entries, also of those in files that cannot be used as they are. `made` is what `once` keeps.
    """

    root: Path
    taxonomy: Taxonomy | None = None
    fixtures: dict[str, Fixture] = field(default_factory=dict)
    ops: dict[str, list[Golden]] = field(default_factory=dict)
    ops_mistakes: dict[str, list[Mistake]] = field(default_factory=dict)
    papers: dict[str, Paper] = field(default_factory=dict)
    documents: dict[str, Document] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    made: dict[int, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def methods(self) -> dict[str, Method]:
        return {id: method for _, id, method in self.entries()}

    @cached_property
    def paper_of(self) -> dict[str, str]:
        """The key of the paper that brings a method."""
        return {id: key for key, id, _ in self.entries()}

    @cached_property
    def implemented(self) -> dict[str, Method]:
        return {id: method for id, method in self.methods.items() if method.status == "implemented"}

    @cached_property
    def types(self) -> dict[str, ImbalanceType]:
        return self.taxonomy.types if self.taxonomy else {}

    @cached_property
    def imbalances(self) -> dict[str, Imbalance]:
        return {id: problem for kind in self.types.values() for id, problem in kind.problems.items()}

    def once(self, record: BaseModel, make: Callable[[], T]) -> T:
        """What is made of a record of this catalog, by whoever asks first: the checks and the pages ask for the same."""
        if id(record) not in self.made:
            self.made[id(record)] = make()
        found: T = self.made[id(record)]
        return found

    def entries(self) -> Iterator[tuple[str, str, Method]]:
        for key, paper in self.papers.items():
            for id, method in paper.methods.items():
                yield key, id, method

    def document(self, key: str) -> Document:
        return self.documents[f"catalog/papers/{key}.yaml"]


def load(root: Path = ROOT) -> Catalog:
    """Read every file of `root/catalog`; what cannot be read is in `problems`, and the rest is there all the same."""
    catalog = Catalog(root)
    folder = root / "catalog"
    catalog.taxonomy = _read(catalog, folder / "taxonomy.yaml", Taxonomy)
    fixtures = _read(catalog, folder / "fixtures.yaml", Fixtures)
    ops = _read(catalog, folder / "ops.yaml", Ops)
    catalog.fixtures = fixtures.fixtures if fixtures else {}
    catalog.ops = ops.functions if ops else {}
    catalog.ops_mistakes = ops.mistakes if ops else {}
    for path in sorted((folder / "papers").glob("*")):
        if path.suffix != ".yaml":
            name = path.relative_to(root).as_posix()
            catalog.problems.append(Problem(name, (1, 1), "", "only <key>.yaml files belong here"))
        elif paper := _read(catalog, path, Paper):
            catalog.papers[path.stem] = paper
    catalog.named |= catalog.methods.keys()
    return catalog


def _read(catalog: Catalog, path: Path, record: type[R]) -> R | None:
    name = path.relative_to(catalog.root).as_posix()
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        catalog.problems.append(Problem(name, (1, 1), "", "the file is missing"))
        return None
    except OSError as error:
        catalog.problems.append(Problem(name, (1, 1), "", f"cannot be read: {error.strerror}"))
        return None
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode()
        place = before.count("\n") + 1, len(before) - before.rfind("\n")
        catalog.problems.append(Problem(name, place, "", "not UTF-8"))
        return None
    document = catalog.documents[name] = Document(name, text)
    catalog.named |= set(_ENTRY.findall(text))
    catalog.problems += document.problems
    if document.data is None:
        return None
    try:
        return record.model_validate(document.data)
    except ValidationError as error:
        # A value that the reader has refused already is wrong once, not twice.
        refused = {(problem.place, problem.field) for problem in document.problems}
        problems = [_translate(document, detail) for detail in error.errors()]
        catalog.problems += [problem for problem in problems if (problem.place, problem.field) not in refused]
        return None


_EXPECTED = {
    "list_type": "a list, as [first, second]",
    "dict_type": "fields, each `name: value`",
    "model_type": "fields, each `name: value`",
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
}


def _translate(document: Document, detail: Any) -> Problem:
    kind, path, given = detail["type"], tuple(step for step in detail["loc"] if step != "[key]"), detail["input"]
    context = detail.get("ctx", {})
    if kind == "missing":
        return document.problem(path, "this field is required")
    if kind == "extra_forbidden":
        return document.problem(path, "there is no such field")
    if kind == "int_type" and isinstance(given, str) and looks_like_a_number(given):
        return document.problem(path, f"`{given}` is text to YAML; write the number without quotes")
    if kind == "float_type" and isinstance(given, str) and looks_like_a_number(given):
        return document.problem(path, f"`{given}` is text to YAML; write a number without quotes and with a point, as 1.0e-4")
    if kind == "string_type" and isinstance(given, (bool, int, float)):
        return document.problem(path, f"`{str(given).lower()}` is not text to YAML; quote it")
    shown = {list: "a list", dict: "a mapping", type(None): "nothing"}.get(type(given), f"`{given}`")
    if kind in _EXPECTED:
        return document.problem(path, f"{shown} stands here; expected {_EXPECTED[kind]}")
    if kind == "too_short":
        return document.problem(path, "this is empty; expected at least one")
    if kind == "literal_error":
        return document.problem(path, f"{shown} is not one of {context['expected']}")
    if kind == "string_pattern_mismatch":
        return document.problem(path, f"`{given}` does not look right; expected {context['pattern']}")
    return document.problem(path, detail["msg"][0].lower() + detail["msg"][1:])
