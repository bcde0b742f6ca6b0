"""How the time of the ranking losses grows with the number of scores, one in a hundred a positive."""

from collections.abc import Iterator

from tools.bench.baselines import BASELINES
from tools.bench.cases import Case
from tools.bench.measure import SLOW_SECONDS, peak, take_turns
from tools.bench.page import short

SCORES = (1_000, 10_000, 100_000, 1_000_000)
LOSSES = ("ap_loss", "alrp_loss", "rank_sort_loss")
LONGEST_SECONDS = 60.0
HEADER = [
    "| Loss | scores | ms | plain, ms | plain / ours | peak, MiB | of plain |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
]


def rows(names: list[str]) -> Iterator[str]:
    """A row for each size of each loss whose name contains one of `names`, for all of them if there are none."""
    for name in LOSSES:
        if not names or any(n in name for n in names):
            yield from _growth(name)


def _growth(name: str) -> Iterator[str]:
    """The plain form is left out where ten times the scores, and positives, would take it too long."""
    seconds = 0.0
    for n in SCORES:
        case = Case(name, f"losses.{name}", {"n": n, "c": 1, "objects": n // 100})
        given = case.arguments(case.large)
        variants = {"plain": BASELINES[case.id], "ours": case.function}
        if 100 * seconds > LONGEST_SECONDS:
            del variants["plain"]
        found = take_turns(variants, given)
        held = {key: short(peak(f, given) / 2**20) for key, f in variants.items() if found[key] < 1000 * SLOW_SECONDS}
        plain = found.get("plain", 0.0)
        seconds = plain / 1000 if plain else seconds
        cells = [name, f"{n:,}".replace(",", " "), short(found["ours"])]
        cells += [short(plain), short(plain / found["ours"], 2)] if plain else ["", ""]
        yield f"| {' | '.join([*cells, held['ours'], held.get('plain', '')])} |"
