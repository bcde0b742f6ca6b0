"""The site from end to end: check, generate into `build/`, and let mkdocs make `site/` of it."""

import os
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path

import torch
import yaml

from tools.catalog import ROOT, Catalog, load
from tools.checks import check
from tools.figures import figures
from tools.gallery import gallery
from tools.pages import KIND_NAMES, Site
from tools.text import title


def build(root: Path) -> int:
    """Build `root/site`. Returns the exit status; what is wrong is printed."""
    # One thread: sums come out the same on every machine, and tensors as small as a page's gain nothing from more.
    torch.set_num_threads(1)
    # The pictures and figures, for which networks are trained, take as long as all else.
    with get_context("spawn").Pool(1, torch.set_num_threads, (1,)) as beside:
        pictures_made, figures_made = beside.apply_async(gallery), beside.apply_async(figures, (root,))
        catalog = load(root)
        problems = check(catalog)
        for problem in problems:
            print(problem)
        if problems:
            return 1
        site = Site(catalog, pictures_made.get, figures_made.get)
        files = site.render()
    write(root / "build" / "docs", files, root / "docs")
    (root / "build" / "mkdocs.yml").write_text(yaml.safe_dump(configuration(site), sort_keys=False))
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", "build/mkdocs.yml"]
    environment = {"SOURCE_DATE_EPOCH": "0", **os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    status = subprocess.run(command, cwd=root, env=environment, check=False).returncode
    if status == 0:
        print(f"site/: {len(catalog.methods)} methods of {len(catalog.papers)} papers")
    return status


def write(folder: Path, files: dict[str, str], written_by_hand: Path) -> None:
    """Make `folder` hold the generated files and the hand-written ones; touch only what changed, remove what is stale."""
    wanted = {name: text.encode() for name, text in files.items()}
    wanted |= {p.relative_to(written_by_hand).as_posix(): p.read_bytes() for p in written_by_hand.rglob("*") if p.is_file()}
    for name, content in wanted.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in wanted:
            path.unlink()


def configuration(site: Site) -> dict[str, object]:
    """What `mkdocs.yml` cannot know: the folders, and the navigation from the catalog."""
    return {
        "INHERIT": "../mkdocs.yml",
        "docs_dir": "docs",
        "site_dir": "../site",
        "theme": {"custom_dir": str(Path(__file__).parent / "theme")},
        "hooks": [str(Path(__file__).parent / "halves.py")],
        "nav": navigation(site.catalog, site),
    }


def navigation(catalog: Catalog, site: Site) -> list[dict[str, object]]:
    problems: list[object] = ["problems/index.md"]
    for type_id, kind in catalog.types.items():
        pages: list[object] = [f"problems/{type_id}/index.md"]
        pages += [{title(problem.name): site.problem_path(id)} for id, problem in kind.problems.items()]
        problems.append({title(kind.name): pages})
    methods: list[object] = ["methods/index.md"]
    for kind_id in site.kinds:
        of_kind = [(title(m.name), site.method_path(id)) for id, m in catalog.implemented.items() if id.startswith(f"{kind_id}.")]
        methods.append({KIND_NAMES[kind_id]: [{name: path} for name, path in sorted(of_kind, key=lambda pair: pair[0].lower())]})
    api: list[object] = [
        "api/index.md",
        *[{KIND_NAMES[k]: f"api/{k}.md"} for k in site.kinds],
        {"Shared parts": "api/ops.md"},
        {"Measures": "api/measure.md"},
        {"Benchmarks": "benchmarks.md"},
    ]
    return [
        {"Home": "index.md"},
        {"Problems": problems},
        {"Methods": methods},
        {"Use": "training.md"},
        {"Papers": ["papers/index.md"]},
        {"Tables and figures": ["tables.md", "figures.md", "regression_simulation.md", "pyramids.md"]},
        {"Errata": "errata.md"},
        {"Open issues": "open_issues.md"},
        {"API": api},
        {"Contribute": ["contribute.md", "architecture.md"]},
    ]
