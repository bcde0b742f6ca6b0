"""What the catalog's files may hold. These types are its documentation: the checks and the JSON Schema come from them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Text = Annotated[str, StringConstraints(min_length=1, pattern=r"\S")]
Tex = Annotated[str, StringConstraints(min_length=1)]
Url = Annotated[str, StringConstraints(pattern=r"""^https://[A-Za-z0-9.-]+(/[^\s<>"'`\\]*)?$""")]
MethodId = Annotated[str, StringConstraints(pattern=r"^[a-z]+\.[a-z][a-z0-9_]*$")]
Address = Annotated[str, StringConstraints(pattern=r"^[a-z_]+\.[a-z_]+$")]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Scalar = bool | int | float | str | None

Kind = Literal["sampling", "losses", "assignment", "pyramids", "heads", "generation", "balancing"]
Stage = Literal["input", "feature_extraction", "matching_sampling", "detection", "training", "inference"]


class Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Equation(Record):
    """One formula, and where it is printed."""

    tex: Tex
    source: Text
    note: Text | None = None


class Parameter(Record):
    """A keyword-only hyper-parameter: its symbol, its default (the signature's), what it does, and where the default stands."""

    symbol: Tex
    default: Scalar
    meaning: Text
    source: Text


class Golden(Record):
    """Arguments, and the values that they must give, from outside this project's code.

    An argument that is a tensor is a (nested) list, or the name of a fixture's field, `toy.iou`. `expect` is compared with the
    result, `gradient` with the gradient of the result's sum, of a list of tensors with one for each. A value that is printed with few
    decimals says how many; everything else is exact to the tolerance of the dtype.

    A module is made from `init` and called in evaluation mode. `fill` sets all its parameters: to one number, or to `waves`, where element
    k of parameter number i is sin(i + k), divided by the root of the number of elements that meet in one output.
    """

    name: Text
    basis: Literal["printed", "derived", "independent"]
    source: Text
    derivation: Text | None = None
    survey_equations: list[Annotated[int, Field(ge=1, le=24)]] = []
    call: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")] | None = None
    init: dict[str, Any] = {}
    fill: float | Literal["waves"] | None = None
    args: dict[str, Any]
    expect: Any
    gradient: dict[str, Any] = {}
    decimals: Annotated[int, Field(ge=0, le=8)] | None = None


class Size(Record):
    """How many parameters a module of the paper's size has, by a source outside this project's code."""

    call: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
    init: dict[str, Any]
    parameters: Annotated[int, Field(ge=0)]
    basis: Literal["printed", "derived", "independent"]
    source: Text
    derivation: Text | None = None


class Drawing(Record):
    """A module whose graph is drawn.

    `given` has for each argument of `forward` its tensors, by the name that is drawn, with their shapes, or a number. `outputs` names the
    first outputs; later ones are not drawn. `note` says what a reader cannot see, as that there is more of the same.
    """

    call: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
    init: dict[str, Any] = {}
    given: Annotated[dict[str, dict[Text, list[int]] | int | float], Field(min_length=1)]
    outputs: Annotated[list[Text], Field(min_length=1)]
    note: Text | None = None


class Assembly(Record):
    """How a pyramid is put on a backbone: the class, and what it is made from.

    `backbone` names the levels it reads. A class that takes `channels` reads the backbone; one that does not refines the levels of
    another pyramid, `after`. `init` holds what else it needs, at the paper's size.
    """

    call: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
    backbone: Annotated[list[Literal["C2", "C3", "C4", "C5"]], Field(min_length=1)] = ["C2", "C3", "C4", "C5"]
    after: MethodId | None = None
    init: dict[str, Any] = {}


class Mistake(Record):
    """A plausible wrong variant: text of the module, and what stands there instead. The golden cases must fail for it."""

    name: Text
    replace: Text
    by: str


class Result(Record):
    """A reported result, with what it is compared to. `printed_gain` is the relative improvement as printed, in percent,
    `printed_points` the difference as printed, in points of the metric, for sources that print it without the two values."""

    metric: Text
    data: Text
    setting: Text | None = None
    baseline: Text
    baseline_value: float | None = None
    value: float | None = None
    printed_gain: float | None = None
    printed_points: float | None = None
    source: Text
    note: Text | None = None


class Relation(Record):
    to: MethodId
    how: Literal["builds_on", "complements", "disputes", "compares"]
    note: Text | None = None


class Deviation(Record):
    """Where somebody's code, or ours, does something else than the paper, and how one sees that."""

    what: Text
    evidence: Text


class Erratum(Record):
    """A slip in print: what stands there, what is right, and the evidence."""

    where: Text
    printed: Text
    correct: Text
    evidence: Text
    methods: list[MethodId] = []


class Method(Record):
    name: Text
    status: Literal["implemented", "cited"] = "implemented"
    addresses: Annotated[list[Address], Field(min_length=1)]
    stage: Stage
    property: Text | None = None
    summary: Text
    use_when: Text | None = None
    missing: Text | None = None
    equations: list[Equation] = []
    parameters: dict[str, Parameter] = {}
    plots: list[Literal["error", "shift", "aspect", "probability", "gradient_norm", "toy"]] = []
    golden: list[Golden] = []
    sizes: list[Size] = []
    pyramid: Assembly | None = None
    drawings: list[Drawing] = []
    mistakes: list[Mistake] = []
    results: list[Result] = []
    relations: list[Relation] = []
    deviations: list[Deviation] = []
    errata: list[Erratum] = []


class Paper(Record):
    """One paper. `source` says where the bibliography was read; a field that could not be verified is left out."""

    title: Text
    authors: Annotated[list[Text], Field(min_length=1)]
    venue: Text
    year: Annotated[int, Field(ge=1950, le=2100)]
    source: Text
    survey_reference: Annotated[int, Field(ge=1, le=180)] | None = None
    companion_page: bool = False
    volume: Text | None = None
    number: Text | None = None
    pages: Text | None = None
    arxiv: Annotated[str, StringConstraints(pattern=r"^\d{4}\.\d{4,5}$")] | None = None
    doi: Annotated[str, StringConstraints(pattern=r"^10\.\d{4,9}/\S+$")] | None = None
    url: Url | None = None
    code: list[Url] = []
    note: Text | None = None
    methods: Annotated[dict[MethodId, Method], Field(min_length=1)]


class Family(Record):
    name: Text
    section: Text | None = None
    summary: Text


class Imbalance(Record):
    """One of the eight problems."""

    name: Text
    short: Text
    section: Text
    property: Text
    definition: Text
    symptom: Text
    stages: Annotated[list[Stage], Field(min_length=1)]
    families: Annotated[dict[Name, Family], Field(min_length=1)]
    comparison: list[Text] = []


class ImbalanceType(Record):
    name: Text
    section: Text
    definition: Text
    problems: Annotated[dict[Name, Imbalance], Field(min_length=1)]


class StageRecord(Record):
    name: Text
    summary: Text
    in_figure_1: bool


class OpenIssue(Record):
    name: Text
    section: Text
    explanation: Text
    problems: Annotated[list[Name], Field(min_length=1)]
    methods: list[MethodId] = []


class Taxonomy(Record):
    types: dict[Name, ImbalanceType]
    stages: dict[Stage, StageRecord]
    notation: list[list[Tex]]
    open_issues: dict[Name, OpenIssue]
    errata: list[Erratum]


class Fixture(Record):
    """Inputs that several golden cases share, and the methods that use them, in the order of their table."""

    name: Text
    source: Text
    methods: list[MethodId] = []
    fields: dict[Name, list[Any]]


class Ops(Record):
    """Golden cases of shared parts, by `module.function` of `reference_impl.ops`, and mistakes that they catch, by module."""

    functions: dict[Annotated[str, StringConstraints(pattern=r"^[a-z_]+\.[a-z_]+$")], list[Golden]]
    mistakes: dict[Name, list[Mistake]] = {}


class Fixtures(Record):
    fixtures: dict[Name, Fixture]
