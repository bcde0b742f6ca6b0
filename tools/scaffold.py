"""The start of an entry: a file with every field that a citation needs, and the ones an implementation adds as comments."""

import re
from pathlib import Path
from typing import get_args

from tools.checks import KINDS
from tools.records import MethodId, Stage

_KEY = re.compile(r"[a-z]+(?P<year>\d{4})[a-z0-9]+")

_ENTRY = """\
title:                  # as printed, in quotes
authors: []             # [First Author, Second Author]
venue:                  # CVPR
year: {year}
# arxiv: "2101.00001"     quoted, or YAML reads a number
# doi: 10.1000/example
# code: ["https://github.com/owner/name"]
source:                 # where you read the bibliography
methods:
  {id}:
    name:
    status: cited         # remove it once reference_impl/{path}.py exists
    addresses: []         # [regression_loss.iou_based], from catalog/taxonomy.yaml
    stage:                # {stages}
    # property: what it looks at
    summary:              # what is imbalanced, and what this does about it, in your own words; formulas between dollar signs
    # use_when: >-
    #   When to use it, and when not.
    # equations:
    #   - tex: L = 1 - \\mathrm{{IoU}}
    #     source: paper, Eq. 1
    # parameters:
    #   beta: {{symbol: \\beta, default: 1.0, meaning: What it does., source: "paper, Sec. 3"}}
    # golden:
    #   - name: what the case shows
    #     basis: derived    # or printed (with decimals), or independent
    #     source: closed form
    #     derivation: How the expected value follows, step by step.
    #     args: {{pred: [[0.0, 0.0, 1.0, 1.0]], target: [[0.0, 0.0, 2.0, 2.0]]}}
    #     expect: [0.75]
    # mistakes:
    #   - {{name: what the wrong variant does, replace: text of the module, by: what stands there instead}}
"""


def start(root: Path, key: str, id: str) -> str:
    """Write `catalog/papers/<key>.yaml` for a first method. Returns what was done.

    Raises:
        ValueError: the key or the id is not well formed, or the file exists.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        raise ValueError(f"`{key}` is no key; expected <surname><year><word> in lower case, as rezatofighi2019generalized")
    if not re.fullmatch(MethodId.__metadata__[0].pattern, id) or id.split(".")[0] not in KINDS:  # type: ignore[attr-defined]
        raise ValueError(f"`{id}` is no id; expected <kind>.<method>, the kind one of {', '.join(KINDS)}")
    path = root / "catalog" / "papers" / f"{key}.yaml"
    if path.exists():
        raise ValueError(f"catalog/papers/{key}.yaml exists; add `{id}` to its methods")
    path.write_text(_ENTRY.format(year=match["year"], id=id, path=id.replace(".", "/"), stages=", ".join(get_args(Stage))))
    return f"catalog/papers/{key}.yaml is there to be filled in; `python -m tools check` says what is missing"
