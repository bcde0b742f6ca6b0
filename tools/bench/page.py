"""The page of the benchmarks: where its tables stand, and how they are written and read."""

import datetime
import os
import platform
import re
from pathlib import Path

import torch

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"
TABLES = ("figures", "growth", "simulation", "pyramids")


def write(table: str, lines: list[str], note: str = "") -> None:
    """Put a table, and how it was measured, between its marks."""
    before, _, after = _parts(PAGE.read_text(), table)
    PAGE.write_text("\n".join([before, "", f"{_circumstances()} {note}".rstrip(), "", *lines, "", after]))


def short(value: float, digits: int = 3) -> str:
    """`value` to so many digits, without an exponent where it is large."""
    return f"{float(f'{value:.{digits}g}'):.10g}"


def milliseconds(page: Path, table: str) -> dict[str, str]:
    """The times in one of the tables whose rows begin with a name and its time."""
    rows = [line.split("|") for line in _parts(page.read_text(), table)[1].splitlines() if line.startswith("| ")]
    times = {row[1].split(",")[0].strip(): float(row[2]) for row in rows if re.fullmatch(r" [\d.e+]+ ", row[2])}
    return {name: f"{time:.3g} ms" if time < 1000 else f"{time:.0f} ms" for name, time in times.items()}


def _parts(text: str, table: str) -> tuple[str, str, str]:
    begin, end = f"<!-- {table}: written by `python -m tools bench` -->", f"<!-- end of {table} -->"
    before, inside = text.split(begin)
    inside, after = inside.split(end)
    return before + begin, inside, end + after


def _circumstances() -> str:
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return (
        f"Measured on {datetime.date.today()}: {processor}, {os.cpu_count()} processors, load {os.getloadavg()[1]:.1f}; "
        f"{torch.get_num_threads()} thread; torch {torch.__version__}, Python {platform.python_version()}; the processor's time, medians."
    )
