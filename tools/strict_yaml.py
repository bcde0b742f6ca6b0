"""YAML read strictly: plain data, the place of every value, and no surprise that a reader of the file would not see."""

import re
from dataclasses import dataclass
from typing import Any

import yaml

MAX_BYTES = 200_000
MAX_DEPTH = 20
LONGEST_LINE = 500

Path = tuple[str | int, ...]
Place = tuple[int, int]

_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\xa0\xad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_KNOWN = {
    "\r": "a Windows line end; save the file with LF alone",
    "\ufeff": "a byte order mark; save the file as UTF-8 without it",
    "\xa0": "a space that does not break, as one gets from a PDF; type a space",
}
_HINTS = {
    "mapping values are not allowed in this context": "quote a text that has `: ` in it, or mend the indentation",
    "did not find expected key": "mend the indentation, or quote the text",
    "did not find expected ',' or ']'": "a list ends with `]` and has commas; quote a text that begins with `[`",
    "did not find expected ',' or '}'": "a mapping ends with `}` and has commas; quote a text that begins with `{`",
    "found unknown escape character": "write TeX without quotes or in single ones",
    "found unexpected end of stream": "a quote is not closed",
    "could not find expected ':'": "a field is `name: value`",
}
_CONFLICT = re.compile("^<{7} ", re.MULTILINE)
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+(e[+-]?[0-9]+)?", re.IGNORECASE)
_NUMBER_AS_TEXT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with one file: where, in which field, and what would be right."""

    file: str
    place: Place
    field: str
    message: str

    def __str__(self) -> str:
        """One line, as editors and compilers write it."""
        field = f"{self.field}: " if self.field else ""
        line = " ".join(f"{self.file}:{self.place[0]}:{self.place[1]}: {field}{self.message}".split())
        return line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + "..."


def field_name(path: Path) -> str:
    """`('golden', 0, 'name')` as `golden[0].name`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def looks_like_a_number(text: str) -> bool:
    return _NUMBER_AS_TEXT.fullmatch(text) is not None


class _RefusedError(Exception):
    """A text that is not read at all."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


class Document:
    """The data of one YAML text, where each value stands, and what is wrong with it."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.places: dict[Path, Place] = {(): (1, 1)}
        self.data: Any = None
        try:
            self.data = self._read(_compose(text), ())
        except _RefusedError as refused:
            self.problems.append(Problem(file, refused.place, "", str(refused)))

    def problem(self, path: Path, message: str) -> Problem:
        """A problem at the value under `path`, or at the nearest value around it that the file has."""
        known = path
        while known not in self.places:
            known = known[:-1]
        return Problem(self.file, self.places[known], field_name(path), message)

    def _read(self, node: yaml.Node, path: Path) -> Any:
        self.places[path] = _place(node.start_mark)
        if isinstance(node, yaml.CollectionNode) and node.tag.removeprefix("tag:yaml.org,2002:") not in ("map", "seq"):
            self._wrong(node, path, "tags are not allowed; remove it")
        if isinstance(node, yaml.SequenceNode):
            return [self._read(child, (*path, i)) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, path)
        return self._read_scalar(node, path)

    def _read_mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or not key.tag.endswith(":str"):
                self._wrong(key, path, "a key must be text; quote it")
            elif key.value in data:
                self._wrong(key, (*path, key.value), f"the key `{key.value}` stands here twice")
            else:
                data[key.value] = self._read(value, (*path, key.value))
        return data

    def _read_scalar(self, node: yaml.Node, path: Path) -> Any:
        kind, value = node.tag.removeprefix("tag:yaml.org,2002:"), node.value
        if kind == "str":
            if hidden := _HIDDEN.search(value) or re.search("\t", value):
                character = f"the character U+{ord(hidden[0]):04X}"
                escaped = f"a backslash between double quotes makes {character}; write TeX in single quotes"
                self._wrong(node, path, escaped if getattr(node, "style", "") == '"' else f"{character} is hidden; remove it")
            return value
        if kind == "null":
            return None
        if kind == "bool" and value in ("true", "false"):
            return value == "true"
        if kind == "int" and _INTEGER.fullmatch(value):
            return int(value)
        if kind == "float" and _DECIMAL.fullmatch(value):
            return float(value)
        self._wrong(node, path, f"`{value}` would be read as {_KINDS.get(kind, kind)}; quote it if it is text")
        return value

    def _wrong(self, node: yaml.Node, path: Path, message: str) -> None:
        self.problems.append(Problem(self.file, _place(node.start_mark), field_name(path), message))


def _compose(text: str) -> yaml.Node:
    """The text's YAML tree, if the text is harmless."""
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        raise _RefusedError((1, 1), f"the file is larger than {MAX_BYTES} bytes")
    if hidden := _HIDDEN.search(text):
        before = text[: hidden.start()]
        place = (before.count("\n") + 1, hidden.start() - before.rfind("\n"))
        raise _RefusedError(place, _KNOWN.get(hidden[0], f"hidden character U+{ord(hidden[0]):04X}; remove it"))
    if conflict := _CONFLICT.search(text):
        raise _RefusedError((text.count("\n", 0, conflict.start()) + 1, 1), "a merge conflict is left here; resolve it")
    try:
        depth = 0
        for event in yaml.parse(text, yaml.CSafeLoader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise _RefusedError(_place(event.start_mark), "anchors and aliases are not allowed; write it out")
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise _RefusedError(_place(event.start_mark), f"nested deeper than {MAX_DEPTH} levels")
        root = yaml.compose(text, yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _RefusedError(_place(mark) if mark else (1, 1), f"not YAML: {_explained(error, text)}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise _RefusedError((1, 1), f"not YAML: {error}") from None
    if root is None or root.tag == "tag:yaml.org,2002:null":
        raise _RefusedError((1, 1), "the file is empty")
    return root


def _explained(error: yaml.MarkedYAMLError, text: str) -> str:
    """What the parser says, and what a contributor most probably did."""
    said = error.problem or error.context or "it cannot be read"
    if "cannot start any token" in said and error.problem_mark:
        line, column = error.problem_mark.line, error.problem_mark.column
        character = text.splitlines()[line][column]
        return "a tab; indent with spaces" if character == "\t" else f"a text that begins with `{character}` needs quotes"
    return f"{said}; {_HINTS[said]}" if said in _HINTS else said


_KINDS = {"bool": "true or false", "int": "a number", "float": "a number", "timestamp": "a date"}


def _place(mark: Any) -> Place:
    return mark.line + 1, mark.column + 1
