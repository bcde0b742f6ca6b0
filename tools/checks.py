"""Checks of the catalog against itself and against `reference_impl`. Each gives every problem it finds, with its place."""

import ast
import inspect
import re
import traceback
from collections import Counter
from collections.abc import Iterator
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import torch
from pydantic import BaseModel
from torch import nn

from tools.assemble import assemble
from tools.catalog import Catalog
from tools.diagrams import drawn
from tools.golden import Case, compare, count_parameters, hyper_parameters, leaves_of, own_name, parameters
from tools.records import Golden, Kind, Method, Mistake, Size
from tools.strict_yaml import Document, Problem
from tools.strict_yaml import Path as Field
from tools.tex import INLINE, TexError, to_mathml

KINDS = get_args(Kind)
ALLOWED_IMPORTS = {"__future__", "collections", "dataclasses", "functools", "itertools", "jaxtyping", "math", "torch", "typing"}
SHARED = "reference_impl.ops"


def check(catalog: Catalog) -> list[Problem]:
    """Every problem of the catalog, sorted by file and place."""
    checks = (_unique_ids, _file_names, _references, _formulas, _fixtures, _implementations, _modules_have_entries)
    found = set(catalog.problems)
    for one in checks:
        found.update(one(catalog))
    return sorted(found, key=lambda p: (p.file, p.place, p.field, p.message))


def _entries(catalog: Catalog) -> Iterator[tuple[Document, Field, str, Method]]:
    for key, id, method in catalog.entries():
        yield catalog.document(key), ("methods", id), id, method


def _unique_ids(catalog: Catalog) -> Iterator[Problem]:
    count = Counter(id for _, _, id, _ in _entries(catalog))
    for document, path, id, _ in _entries(catalog):
        if count[id] > 1:
            yield document.problem(path, f"`{id}` has {count[id]} entries; a method has one, others refer to it in `relations`")
        if id.split(".")[0] not in KINDS:
            yield document.problem(path, f"`{id}` must begin with a kind: {', '.join(KINDS)}")


def _file_names(catalog: Catalog) -> Iterator[Problem]:
    for key, paper in catalog.papers.items():
        if not re.fullmatch(rf"[a-z]+{paper.year}[a-z0-9]+", key):
            expected = f"<surname>{paper.year}<word>.yaml, in lower case"
            yield catalog.document(key).problem(("year",), f"the file is called {key}.yaml; expected {expected}")


def _references(catalog: Catalog) -> Iterator[Problem]:
    addresses = {f"{id}.{family}" for id, problem in catalog.imbalances.items() for family in problem.families}
    for document, path, id, method in _entries(catalog):
        for i, address in enumerate(method.addresses):
            if catalog.taxonomy and address not in addresses:
                yield document.problem((*path, "addresses", i), f"the taxonomy has no `{address}`{_nearest(address, addresses)}")
        for i, relation in enumerate(method.relations):
            if relation.to not in catalog.named:
                message = f"there is no method `{relation.to}`{_nearest(relation.to, catalog.named)}"
                yield document.problem((*path, "relations", i, "to"), message)
            if relation.to == id or relation in method.relations[:i]:
                message = "a method is no relation of itself" if relation.to == id else "this relation stands here twice"
                yield document.problem((*path, "relations", i), message)
        if circle := _circle(catalog, id):
            yield document.problem((*path, "relations"), f"builds on itself: {' -> '.join(circle)}")
    if catalog.taxonomy is None:
        return
    document = catalog.documents["catalog/taxonomy.yaml"]
    for id, issue in catalog.taxonomy.open_issues.items():
        for i, problem in enumerate(issue.problems):
            if problem not in catalog.imbalances:
                yield document.problem(("open_issues", id, "problems", i), f"there is no problem `{problem}`")
        yield from _known_methods(catalog, document, ("open_issues", id), issue.methods)
    for i, erratum in enumerate(catalog.taxonomy.errata):
        yield from _known_methods(catalog, document, ("errata", i), erratum.methods)


def _circle(catalog: Catalog, id: str) -> list[str]:
    """The way on which the relation `builds_on` leads from a method back to it, over others, if there is one."""
    ways = [[id]]
    seen = {id}
    while ways:
        way = ways.pop()
        for relation in catalog.methods[way[-1]].relations if way[-1] in catalog.methods else ():
            if relation.how == "builds_on" and relation.to == id and len(way) > 1:
                return [*way, id]
            if relation.how == "builds_on" and relation.to not in seen:
                seen.add(relation.to)
                ways.append([*way, relation.to])
    return []


def _known_methods(catalog: Catalog, document: Document, path: Field, methods: list[str]) -> Iterator[Problem]:
    for i, id in enumerate(methods):
        if id not in catalog.named:
            message = f"there is no method `{id}`{_nearest(id, catalog.named)}"
            yield document.problem((*path, "methods", i), message)


def _nearest(name: str, known: Any) -> str:
    near = get_close_matches(name, list(known), 1)
    return f"; did you mean `{near[0]}`?" if near else ""


def _formulas(catalog: Catalog) -> Iterator[Problem]:
    records: list[tuple[str, BaseModel]] = [(f"catalog/papers/{key}.yaml", paper) for key, paper in catalog.papers.items()]
    if catalog.taxonomy:
        records.append(("catalog/taxonomy.yaml", catalog.taxonomy))
    for file, record in records:
        document = catalog.documents[file]
        for path, text, is_tex in _texts(record, ()):
            for tex in [text] if is_tex else INLINE.findall(text):
                try:
                    to_mathml(tex)
                except TexError as error:
                    yield document.problem(path, f"TeX: {error}")
            if is_tex and "\n" in text:
                yield document.problem(path, "TeX: a line break in the formula; write it in single quotes, or folded with `>-`")
            if not is_tex and path[-1] not in ("replace", "by") and "$" in INLINE.sub("", text):
                yield document.problem(path, "TeX: a `$` without its pair in the same line")


def _texts(value: Any, path: Field) -> Iterator[tuple[Field, str, bool]]:
    """Every text under `value`, and whether it is TeX as a whole."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _texts(getattr(value, name), (*path, name))
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _texts(child, (*path, key))
    elif isinstance(value, list):
        for i, child in enumerate(value):
            yield from _texts(child, (*path, i))
    elif isinstance(value, str):
        in_notation = path[0] == "notation" and path[-1] != 2
        yield path, value, path[-1] in ("tex", "symbol") or in_notation


def _fixtures(catalog: Catalog) -> Iterator[Problem]:
    for id, fixture in catalog.fixtures.items():
        yield from _known_methods(catalog, catalog.documents["catalog/fixtures.yaml"], ("fixtures", id), fixture.methods)
        if len({len(field) for field in fixture.fields.values()}) > 1:
            document = catalog.documents["catalog/fixtures.yaml"]
            yield document.problem(("fixtures", id, "fields"), "the fields differ in length")


def _implementations(catalog: Catalog) -> Iterator[Problem]:
    for document, path, id, method in _entries(catalog):
        if method.status == "cited":
            for name in ("golden", "mistakes", "parameters", "plots"):
                if getattr(method, name):
                    yield document.problem((*path, name), "a cited method has no implementation; remove this or `status: cited`")
        else:
            yield from _implementation(catalog, document, path, id, method)
    document_of_ops = catalog.documents.get("catalog/ops.yaml")
    for name, goldens in catalog.ops.items():
        assert document_of_ops
        for i, golden in enumerate(goldens):
            yield from _golden(catalog, document_of_ops, ("functions", name, i), Case(f"ops.{name}", golden))
    for name, mistakes in catalog.ops_mistakes.items():
        assert document_of_ops
        yield from _mistakes(catalog, document_of_ops, ("mistakes", name), f"ops.{name}", mistakes)


def _implementation(catalog: Catalog, document: Document, path: Field, id: str, method: Method) -> Iterator[Problem]:
    kind, name = id.split(".")
    file = catalog.root / "reference_impl" / kind / f"{name}.py"
    if not file.exists():
        yield document.problem(path, f"reference_impl/{kind}/{name}.py does not exist; write it, or set `status: cited`")
        return
    problems = list(_source(file, file.relative_to(catalog.root).as_posix(), name))
    yield from problems
    if problems:
        return
    try:
        module = import_module(f"reference_impl.{id}")
        exported = import_module(f"reference_impl.{kind}")
    except (Exception, SystemExit) as error:
        yield _failed_import(f"reference_impl/{kind}/{name}.py", error)
        return
    problems = list(_exports(module, f"reference_impl/{kind}/{name}.py"))
    yield from problems
    if problems:
        return
    for public in module.__all__:
        # Of a module that was imported, the package has the name anyway.
        if getattr(exported, public, None) is not getattr(module, public):
            yield Problem(f"reference_impl/{kind}/__init__.py", (1, 1), "", f"does not export `{public}` of {name}.py")
    yield from _parameters(document, path, module, method)
    if not method.equations:
        yield document.problem(path, "an implemented method has at least one equation")
    if not method.golden:
        yield document.problem(path, "an implemented method has at least one golden case")
    if len(method.mistakes) < 2:
        yield document.problem(path, "an implemented method names at least two mistakes that its golden cases catch")
    yield from _mistakes(catalog, document, (*path, "mistakes"), id, method.mistakes)
    for i, golden in enumerate(method.golden):
        if golden.name in [other.name for other in method.golden[:i]]:
            yield document.problem((*path, "golden", i, "name"), "another case has this name")
        if golden.call and golden.call not in module.__all__:
            yield document.problem((*path, "golden", i, "call"), f"{name}.py does not export `{golden.call}`")
        else:
            yield from _golden(catalog, document, (*path, "golden", i), Case(id, golden))
    for i, size in enumerate(method.sizes):
        yield from _size(catalog, document, (*path, "sizes", i), id, size)
    for i, drawing in enumerate(method.drawings):
        try:
            catalog.once(drawing, partial(drawn, id, drawing))
        except Exception as error:
            yield document.problem((*path, "drawings", i), f"`{drawing.call}` cannot be drawn: {error}")
    if method.pyramid:
        yield from _pyramid(catalog, document, (*path, "pyramid"), id)


def _mistakes(catalog: Catalog, document: Document, path: Field, id: str, mistakes: list[Mistake]) -> Iterator[Problem]:
    name = f"reference_impl/{id.replace('.', '/')}.py"
    file = catalog.root / name
    text = file.read_text("utf-8") if file.exists() else ""
    for i, mistake in enumerate(mistakes):
        if mistake.replace not in text:
            yield document.problem((*path, i, "replace"), f"{name} has no such text")
        elif mistake.replace == mistake.by:
            yield document.problem((*path, i, "by"), "the same as `replace`; expected what the wrong variant has there")


def _pyramid(catalog: Catalog, document: Document, path: Field, id: str) -> Iterator[Problem]:
    after = catalog.implemented[id].pyramid.after  # type: ignore[union-attr]
    if after and (after not in catalog.implemented or not catalog.implemented[after].pyramid):
        yield document.problem((*path, "after"), f"`{after}` is no implemented pyramid")
        return
    try:
        with torch.device("meta"):
            assemble(catalog, id)
    except Exception as error:
        yield document.problem(path, f"the pyramid cannot be made: {error}")


def _size(catalog: Catalog, document: Document, path: Field, id: str, size: Size) -> Iterator[Problem]:
    if size.basis == "derived" and not size.derivation:
        yield document.problem(path, "a derived number needs its `derivation`")
    try:
        counted = catalog.once(size, lambda: count_parameters(id, size))
    except Exception as error:
        yield document.problem((*path, "init"), f"`{size.call}` cannot be made: {error}")
        return
    if counted != size.parameters:
        yield document.problem((*path, "parameters"), f"{size.parameters} here, but `{size.call}` has {counted}")


def _source(file: Path, name: str, method: str) -> Iterator[Problem]:
    """What a method's module must not do, and that it exports the method; read without importing it."""
    try:
        tree = ast.parse(file.read_text("utf-8"))
    except SyntaxError as error:
        yield Problem(name, (error.lineno or 1, error.offset or 1), "", f"not Python: {error.msg}")
        return
    except (OSError, ValueError, MemoryError, RecursionError) as error:
        yield Problem(name, (1, 1), "", f"not Python: {str(error) or type(error).__name__}")
        return
    if not ast.get_docstring(tree):
        yield Problem(name, (1, 1), "", "begins without a docstring; expected the method, its authors, venue and year")
    for node in ast.walk(tree):
        modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or "."]
        for module in modules:
            if module.split(".")[0] not in ALLOWED_IMPORTS and not module.startswith(SHARED):
                place = (node.lineno, node.col_offset + 1)  # type: ignore[attr-defined]
                yield Problem(name, place, "", f"imports `{module}`; a method imports torch, jaxtyping and {SHARED} only")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("exec", "eval", "open", "__import__"):
            yield Problem(name, (node.lineno, node.col_offset + 1), "", f"calls `{node.func.id}`; a method computes with tensors only")
    exports = next((n.value for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"), None)
    names = [getattr(element, "value", None) for element in exports.elts] if isinstance(exports, (ast.List, ast.Tuple)) else []
    texts = [public for public in names if isinstance(public, str)]
    if len(texts) < len(names) or own_name(method, texts) not in texts:
        yield Problem(name, (1, 1), "__all__", f"must be a list of names, `{method}` or the class of that name among them")


def _exports(module: ModuleType, file: str) -> Iterator[Problem]:
    """What `__all__` names must be functions and modules of this file, with a signature that can be read."""
    for public in module.__all__:
        value: Any = getattr(module, public, None)
        is_module = isinstance(value, type) and issubclass(value, nn.Module)
        if not (inspect.isfunction(value) or is_module) or value.__module__ != module.__name__:
            yield Problem(file, (1, 1), "__all__", f"`{public}` is no function and no module that this file defines")
            continue
        try:
            inspect.signature(value, eval_str=True)
        except Exception as error:
            yield Problem(file, (1, 1), "", f"the signature of `{public}` cannot be read: {error}")
            continue
        for name, parameter in parameters(value).items():
            if parameter.annotation in (parameter.empty, torch.Tensor):
                line = inspect.getsourcelines(value)[1]
                wanted = 'a tensor with its shape, as Float[Tensor, "*batch 4"]'
                yield Problem(file, (line, 1), "", f"`{name}` of {public} has no type that can be checked; expected {wanted}")


def _failed_import(file: str, error: BaseException) -> Problem:
    """The innermost line of the project that was running when an import failed: a broken module takes its neighbours with it."""
    frames = [(f.filename, f.lineno or 1) for f in traceback.extract_tb(error.__traceback__) if f.name == "<module>"]
    if isinstance(error, SyntaxError):
        frames.append((error.filename or "", error.lineno or 1))
    ours = [("reference_impl/" + name.rpartition("/reference_impl/")[2], line) for name, line in frames if "/reference_impl/" in name]
    file, line = ours[-1] if ours else (file, 1)
    return Problem(file, (line, 1), "", f"cannot be imported: {type(error).__name__}: {error}")


def _parameters(document: Document, path: Field, module: Any, method: Method) -> Iterator[Problem]:
    """Every hyper-parameter is documented, with the signature's default, and nothing else is."""
    known = set()
    for key, public, parameter in hyper_parameters(module, method.parameters):
        known.add(key)
        default = None if parameter.default is parameter.empty else parameter.default
        if key not in method.parameters:
            yield document.problem((*path, "parameters"), f"`{key}` of {public} is not documented")
        elif method.parameters[key].default != default:
            given = method.parameters[key].default
            yield document.problem((*path, "parameters", key, "default"), f"{given!r} here, {default!r} in the signature of {public}")
    for key in method.parameters:
        if key not in known:
            yield document.problem((*path, "parameters", key), "no exported function has this keyword-only parameter")


def _golden(catalog: Catalog, document: Document, path: Field, case: Case) -> Iterator[Problem]:
    golden: Golden = case.golden
    if golden.basis == "derived" and not golden.derivation:
        yield document.problem(path, "a derived case needs its `derivation`")
    for name in ("expect", "gradient"):
        if wrong := [x for x in leaves_of(getattr(golden, name)) if not isinstance(x, (bool, int, float))]:
            yield document.problem((*path, name), f"`{wrong[0]}` is no number; expected numbers, as 0.25")
            return
    for name in golden.gradient.keys() - golden.args.keys():
        yield document.problem((*path, "gradient", name), f"`args` has no `{name}`; expected one of {', '.join(golden.args)}")
        return
    try:
        compared = catalog.once(case.golden, lambda: compare(catalog, case))
    except (Exception, SystemExit) as error:
        yield document.problem((*path, "args"), f"the case cannot be run: {error}")
        return
    for comparison in compared:
        if not comparison.agrees:
            name = "expect" if comparison.what == "value" else "gradient"
            yield document.problem((*path, name), f"{comparison.what}: {comparison}")


def _modules_have_entries(catalog: Catalog) -> Iterator[Problem]:
    for file in sorted((catalog.root / "reference_impl").glob("*/*.py")):
        id = f"{file.parent.name}.{file.stem}"
        entry = id in catalog.implemented or (id in catalog.named and id not in catalog.methods)
        if file.parent.name in KINDS and file.stem != "__init__" and not entry:
            name = file.relative_to(catalog.root).as_posix()
            yield Problem(name, (1, 1), "", f"no entry of catalog/papers/ implements `{id}`")
