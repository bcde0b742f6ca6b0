"""The site's generated pages: catalog and implementations in, Markdown with escaped HTML out."""

import json
import posixpath
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from torch import Tensor

from tools import text
from tools.bench.page import milliseconds
from tools.bibtex import bibtex, citation_tags
from tools.catalog import Catalog
from tools.diagrams import drawn
from tools.figures import Figures
from tools.gallery import Picture
from tools.golden import Case, Comparison, compare, count_parameters, hyper_parameters, own_name
from tools.plots import Plots
from tools.pyramids import BoxStatistics, Measured, box_statistics, measure
from tools.records import Drawing, Erratum, Golden, Imbalance, ImbalanceType, Method, Paper, Parameter, Result, Size
from tools.samplers import Outcome, outcome
from tools.scales import OCTAVES, Scales, scales

LONGEST = 1500
TEMPLATES = Path(__file__).parent / "templates"
KIND_NAMES = {
    "sampling": "Sampling",
    "losses": "Losses",
    "assignment": "Assignment",
    "pyramids": "Pyramids",
    "heads": "Heads",
    "generation": "Generation",
    "balancing": "Balancing",
}
RELATED_BY = {"builds_on": "built on by", "complements": "complemented by", "disputes": "disputed by", "compares": "compared in"}


@dataclass(frozen=True)
class GoldenRow:
    """A golden case with what the implementation gives for it."""

    golden: Golden
    comparisons: list[Comparison]

    @property
    def difference(self) -> float:
        return max((c.difference for c in self.comparisons), default=0.0)

    @property
    def toy_weights(self) -> list[float] | None:
        """The computed weights, if this is a row of the survey's toy example."""
        uses_toy = any(isinstance(v, str) and v.startswith("toy.") for v in self.golden.args.values())
        values = self.comparisons[0].computed
        return values.tolist() if uses_toy and values.shape == (6,) else None


@dataclass
class Site:
    """Everything that templates ask for.

    Attributes:
        get_pictures: gives the pictures of each generator.
        get_figures: gives the figures.
        files: the text of each generated path.
    """

    catalog: Catalog
    get_pictures: Callable[[], dict[str, list[Picture]]]
    get_figures: Callable[[], Figures]
    files: dict[str, str] = field(default_factory=dict)

    @cached_property
    def plots(self) -> Plots:
        return Plots(self.catalog)

    @cached_property
    def env(self) -> jinja2.Environment:
        env = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        env.filters.update(prose=text.prose, tex=text.formula, title=text.title, heading=text.heading, values=_values)
        env.globals.update(site=self, kind_names=KIND_NAMES, taxonomy=self.catalog.taxonomy)
        return env

    def render(self) -> dict[str, str]:
        """Every generated page and download; last the figures, which may still be being drawn."""
        self._page("index.md", "home.md")
        for key, id, method in self.catalog.entries():
            paper = self.catalog.papers[key]
            self._page(self.method_path(id), "method.md", id=id, method=method, key=key, paper=paper)
        for key, paper in self.catalog.papers.items():
            tags = Markup(json.dumps(citation_tags(paper)))
            self._page(f"papers/{key}.md", "paper.md", key=key, paper=paper, tags=tags)
            self.files[f"papers/{key}.bib"] = bibtex(key, paper)
        for type_id, kind in self.catalog.types.items():
            self._page(f"problems/{type_id}/index.md", "type.md", type_id=type_id, type=kind)
            for problem_id, problem in kind.problems.items():
                self._page(self.problem_path(problem_id), "problem.md", type_id=type_id, type=kind, problem_id=problem_id, problem=problem)
        for name in ("problems/index", "methods/index", "papers/index", "tables", "errata", "open_issues"):
            self._page(f"{name}.md", f"{name.replace('/', '_')}.md")
        for name in self.kinds:
            self._page(f"api/{name}.md", "api.md", kind=name, name=KIND_NAMES[name], package=f"reference_impl.{name}")
        self._page("pyramids.md", "pyramids.md", boxes=self.objects)
        self._page("api/ops.md", "api.md", kind="ops", name="Shared parts", package="reference_impl.ops")
        self._page("api/measure.md", "api.md", kind="measure", name="Measures", package="reference_impl.measure")
        self._page("api/index.md", "api_index.md")
        self.files["catalog.bib"] = "\n".join(bibtex(key, paper) for key, paper in self.catalog.papers.items())
        self._page("figures.md", "figures.md")
        self._page("regression_simulation.md", "regression_simulation.md")
        self.files["catalog.json"] = json.dumps(self._data(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        return self.files

    def _page(self, path: str, template: str, **values: Any) -> None:
        def url(target: str) -> str:
            """A link from this page to a generated file or page."""
            here = _address(path)
            return posixpath.relpath(_address(target), here or ".") + ("/" if target.endswith(".md") else "")

        self.files[path] = self.env.get_template(template).render(url=url, path=path, **values)

    def _data(self) -> dict[str, Any]:
        assert self.catalog.taxonomy
        return {
            "taxonomy": self.catalog.taxonomy.model_dump(exclude_none=True),
            "papers": {key: paper.model_dump(exclude_none=True) for key, paper in self.catalog.papers.items()},
        }

    # What templates ask.

    @property
    def kinds(self) -> list[str]:
        """The kinds that have an implementation."""
        return [kind for kind in KIND_NAMES if any(id.startswith(f"{kind}.") for id in self.catalog.implemented)]

    def method_path(self, id: str) -> str:
        return f"methods/{id.replace('.', '/')}.md"

    def problem_path(self, id: str) -> str:
        return f"problems/{self.type_of(id)}/{id}.md"

    def type_of(self, problem: str) -> str:
        return next(type_id for type_id, kind in self.catalog.types.items() if problem in kind.problems)

    def methods_of(self, address: str) -> list[tuple[str, Method]]:
        """Methods under a problem (`regression_loss`) or a family (`regression_loss.iou_based`), implemented ones first."""
        found = [
            (id, method)
            for id, method in self.catalog.methods.items()
            if any(a == address or a.startswith(f"{address}.") for a in method.addresses)
        ]
        return sorted(found, key=lambda pair: (pair[1].status != "implemented", self._year(pair[0]), pair[0]))

    def count(self, address: str) -> tuple[int, int]:
        """How many methods of a problem or family are implemented, and how many are cited only."""
        methods = [method for _, method in self.methods_of(address)]
        done = sum(method.status == "implemented" for method in methods)
        return done, len(methods) - done

    def paper_of(self, id: str) -> Paper:
        return self.catalog.papers[self.catalog.paper_of[id]]

    def _year(self, id: str) -> int:
        return self.paper_of(id).year

    def golden_rows(self, id: str) -> list[GoldenRow]:
        goldens = self.catalog.implemented[id].golden
        return [GoldenRow(golden, self.catalog.once(golden, partial(compare, self.catalog, Case(id, golden)))) for golden in goldens]

    def counted_sizes(self, id: str) -> list[tuple[Size, int]]:
        return [(size, self.catalog.once(size, partial(count_parameters, id, size))) for size in self.catalog.implemented[id].sizes]

    @cached_property
    def pyramids(self) -> dict[str, Measured]:
        """Every pyramid, measured; those that balance object scale first."""
        known = dict(self.methods_of("object_scale") + self.methods_of("feature_level"))
        return {id: measure(self.catalog, id) for id, method in known.items() if id in self.catalog.implemented and method.pyramid}

    def cost(self, id: str) -> str:
        """What a method costs in a word: the size of its module, or the time of its function."""
        if measured := self.pyramids.get(id):
            return f"{measured.parameters / 1e6:.1f} million parameters, {measured.gigaflops:.0f} billion operations"
        if sizes := self.catalog.implemented[id].sizes:
            return f"{sizes[0].parameters / 1e6:.1f} million parameters"
        return self.milliseconds["figures"].get(id.split(".")[1], "")

    @cached_property
    def milliseconds(self) -> dict[str, dict[str, str]]:
        """The times that stand in the tables of the benchmarks: those of functions and those of pyramids."""
        page = self.catalog.root / "docs" / "benchmarks.md"
        return {table: milliseconds(page, table) for table in ("figures", "pyramids")}

    @cached_property
    def outcomes(self) -> dict[str, Outcome]:
        """What each sampler and weight does to the batch, as far as the batch has what it takes."""
        ids = [id for id in self.catalog.implemented if id.startswith(("sampling.", "losses."))]
        return {id: found for id in ids if (found := outcome(self.catalog, id))}

    @cached_property
    def objects(self) -> BoxStatistics:
        return box_statistics()

    @cached_property
    def scales(self) -> dict[str, Scales]:
        return {id: found for id, found in scales().items() if id in self.catalog.implemented}

    @property
    def octaves(self) -> list[str]:
        return OCTAVES

    def drawings(self, id: str) -> list[tuple[Drawing, Markup]]:
        """The modules of a method that are drawn, and their graphs."""
        return [(drawing, self.catalog.once(drawing, partial(drawn, id, drawing))) for drawing in self.catalog.methods[id].drawings]

    def pictures(self, id: str) -> list[Picture]:
        return self.get_pictures().get(id, [])

    @cached_property
    def figures(self) -> Figures:
        return self.get_figures()

    def toy_rows(self) -> Iterator[tuple[str, Method, Golden, list[float]]]:
        """The survey's Table 3: what each implementation gives on the toy example."""
        for id in self.catalog.fixtures["toy"].methods:
            for row in self.golden_rows(id):
                if weights := row.toy_weights:
                    yield id, self.catalog.methods[id], row.golden, weights

    def source_of(self, id: str) -> str:
        return (self.catalog.root / "reference_impl" / f"{id.replace('.', '/')}.py").read_text()

    def modules_of(self, kind: str) -> list[str]:
        return sorted(p.stem for p in (self.catalog.root / "reference_impl" / kind).glob("*.py") if p.stem != "__init__")

    def exports_of(self, id: str) -> list[str]:
        module = import_module(f"reference_impl.{id}")
        own = own_name(id.split(".")[1], module.__all__)
        return sorted(module.__all__, key=lambda name: (name != own, name))

    def parameters_of(self, id: str) -> dict[tuple[str, ...], dict[str, Parameter]]:
        """The parameters of a method's entry by name, under the functions that take them."""
        documented = self.catalog.implemented[id].parameters
        takers: dict[str, list[str]] = {key: [] for key in documented}
        names = {}
        for key, public, parameter in hyper_parameters(import_module(f"reference_impl.{id}"), documented):
            takers[key].append(public)
            names[key] = parameter.name
        found: dict[tuple[str, ...], dict[str, Parameter]] = {}
        for key, functions in takers.items():
            found.setdefault(tuple(functions), {})[names[key]] = documented[key]
        return found

    def citation(self, id: str) -> str:
        return bibtex(self.catalog.paper_of[id], self.paper_of(id))

    def bibtex(self, key: str) -> str:
        return bibtex(key, self.catalog.papers[key])

    def related_by(self, id: str) -> dict[str, list[str]]:
        """Methods whose entries point at this one, by how they do; without those that this one's entry names for the same reason."""
        named = {(r.to, r.how) for r in self.catalog.methods[id].relations}
        found: dict[str, list[str]] = {how: [] for how in RELATED_BY}
        for other, method in self.catalog.methods.items():
            for how in [r.how for r in method.relations if r.to == id and (other, r.how) not in named]:
                found[how].append(other)
        return {RELATED_BY[how]: others for how, others in found.items() if others}

    def open_issues_of(self, id: str) -> list[str]:
        assert self.catalog.taxonomy
        return [key for key, issue in self.catalog.taxonomy.open_issues.items() if id in issue.methods or id in issue.problems]

    def all_errata(self) -> list[tuple[list[str], Erratum]]:
        assert self.catalog.taxonomy
        general = [(erratum.methods, erratum) for erratum in self.catalog.taxonomy.errata]
        return general + [([id], erratum) for id, method in self.catalog.methods.items() for erratum in method.errata]

    def errata_of(self, id: str) -> list[Erratum]:
        """Slips in the method's own entry, and those of the survey that concern it."""
        return [erratum for methods, erratum in self.all_errata() if id in methods]

    def all_results(self, problem: str) -> list[tuple[str, Method, Result]]:
        return [(id, method, result) for id, method in self.methods_of(problem) for result in method.results]

    def problems(self) -> list[tuple[str, ImbalanceType, str, Imbalance]]:
        return [(t, kind, p, problem) for t, kind in self.catalog.types.items() for p, problem in kind.problems.items()]

    def table_5(self) -> list[str]:
        """The methods of the survey's Table 5, in its order, as far as the catalog has them."""
        names = ["l2", "l1", "smooth_l1", "balanced_l1", "kl", "iou", "bounded_iou", "giou", "diou", "ciou"]
        return [id for name in names if (id := f"losses.{name}_loss") in self.catalog.methods]

    def gain(self, result: Result) -> float | None:
        """The relative improvement in percent, from the two values."""
        if result.value is None or not result.baseline_value:
            return None
        return 100 * (result.value - result.baseline_value) / result.baseline_value


def _address(path: str) -> str:
    """The address of a page or file in the built site, without a slash at its end."""
    if not path.endswith(".md"):
        return path
    return path.removesuffix("index.md").removesuffix(".md").rstrip("/") or "."


def _values(values: Any) -> str:
    """Numbers for a table cell, short but not rounded to a lie; no more than the smallest normal float64, and -0, are 0."""
    if isinstance(values, Tensor):
        values = values.tolist()
    if isinstance(values, (list, tuple)):
        whole = "[" + ", ".join(_values(v) for v in values) + "]"
        return whole if len(whole) <= LONGEST else whole[:LONGEST].rsplit(",", 1)[0] + f", … ({whole.count(',') + 1} numbers)"
    if isinstance(values, bool) or values is None:
        return {True: "true", False: "false", None: "none"}[values]
    if isinstance(values, float) and abs(values) <= sys.float_info.min:
        return "0"
    return f"{values:.6g}".replace("-", "−") if isinstance(values, (int, float)) else str(values)
