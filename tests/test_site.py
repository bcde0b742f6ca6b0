"""The built site: links lead somewhere, headings nest, nothing is from another host, hostile text stays text, and two builds are equal."""

import filecmp
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from inspect import signature
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest

from tests.inputs import CATALOG
from tools.build import build
from tools.catalog import ROOT
from tools.figures import figures
from tools.golden import resolve
from tools.pages import Site
from tools.text import prose

SITE = Site(CATALOG, dict, partial(figures, ROOT))
HOST = "https://atlas.invalid/under/a/path/"
HOSTILE = """\
title: '<script>alert(1)</script> & "quotes" {{ 7 * 7 }} [x](javascript:alert(2))'
authors: ['<img src=x onerror=alert(3)>']
venue: '| a | b |'
year: 2021
source: '# heading { onmouseover=alert(4) }'
methods:
  losses.hostile_loss:
    name: '</title><script>alert(5)</script> `code` *b* {: onclick=alert(6)}'
    status: cited
    addresses: [regression_loss.iou_based]
    stage: detection
    summary: '<svg onload=alert(7)> ![x](https://elsewhere.invalid/p.png) and $x^2$'
    deviations: [{what: '<b onclick=alert(8)>', evidence: '</div></body>'}]
"""


class Page(HTMLParser):
    """What a page links to, loads, names, and might run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.repeated: set[str] = set()
        self.headings: list[int] = []
        self.suspicious: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        if "id" in given:
            self.repeated |= {given["id"]} & self.ids
            self.ids.add(given["id"])
        if tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self.headings.append(int(tag[1]))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if "src" in given:
            self.loads.append(given["src"])
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(given["href"])
        self.suspicious += [f"{tag} {name}" for name in given if name.startswith("on")]
        self.suspicious += [f"{tag} {value}" for value in given.values() if value.strip().lower().startswith("javascript:")]
        if tag in ("iframe", "object", "embed"):
            self.suspicious.append(tag)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the repository with a hostile entry, its site built for an address below a host."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("catalog", "docs", "reference_impl"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mkdocs.yml", root)
    (root / "catalog" / "papers" / "hostile2021text.yaml").write_text(HOSTILE)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SITE_URL", HOST)
        assert build(root) == 0
        yield root


@pytest.fixture(scope="session")
def pages(root: Path) -> dict[str, Page]:
    site = root / "site"
    return {path.relative_to(site).as_posix(): Page(path.read_text()) for path in site.rglob("*.html")}


def test_every_internal_link_leads_to_a_page_and_its_anchor(pages: dict[str, Page], root: Path) -> None:
    broken = []
    for name, page in pages.items():
        for link in [*page.links, *page.loads]:
            address, anchor = urldefrag(urljoin(HOST + name, link))
            if not address.startswith(HOST):
                continue
            target = unquote(urlparse(address).path).removeprefix(urlparse(HOST).path)
            target = f"{target}index.html" if not target or target.endswith("/") else target
            found = (root / "site" / target).is_file()
            if not found or (anchor and target in pages and unquote(anchor) not in pages[target].ids):
                broken.append(f"{name}: {link}")
    assert not broken


def test_each_page_has_one_title_no_level_of_heading_is_skipped_and_ids_are_unique(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        levels = page.headings
        assert levels.count(1) == 1, name
        assert all(after <= before + 1 for before, after in zip([0, *levels], levels, strict=False)), f"{name}: {levels}"
        assert not page.repeated, name


def test_every_header_cell_has_words(root: Path) -> None:
    for path in (root / "site").rglob("*.html"):
        assert not re.search(r"<th\b[^>]*>\s*</th>", path.read_text()), path


def test_what_is_returned_is_one_item_however_many_lines_tell_of_it(root: Path) -> None:
    lists = [
        found
        for page in (root / "site" / "api").rglob("*.html")
        for found in re.findall(r">Returns:<.*?</ul>", page.read_text(), re.DOTALL)
    ]
    assert len(lists) > 100
    assert [found for found in lists if found.count("<li") != 1] == []


def test_zero_is_written_as_zero() -> None:
    """Also the negative one, and the smallest number, which stands for it under a power; what is merely small is shown."""
    shown = SITE.env.filters["values"]
    assert shown([0.0, -0.0, sys.float_info.min, -1e-300, 1.1e-16]) == "[0, 0, 0, −1e−300, 1.1e−16]"


def test_text_shows_formulas_code_and_what_is_unverified() -> None:
    shown = prose("<b> `x < 1` and $x$: recalled, unverified")
    assert shown.startswith("&lt;b&gt; <code>x &lt; 1</code> and <math")
    assert shown.endswith("recalled, unverified</mark>")


def test_every_parameter_stands_under_the_functions_that_take_it() -> None:
    focal = {functions: list(parameters) for functions, parameters in SITE.parameters_of("losses.focal_loss").items()}
    assert focal == {("focal_loss", "focal_weight"): ["gamma"], ("focal_loss",): ["alpha"]}
    for id, method in CATALOG.implemented.items():
        groups = SITE.parameters_of(id)
        assert sum(map(len, groups.values())) == len(method.parameters)
        for functions, names in groups.items():
            assert all(names.keys() <= signature(resolve(id, function)).parameters.keys() for function in functions), id


def test_nothing_is_loaded_from_another_host(pages: dict[str, Page]) -> None:
    foreign = [f"{name}: {link}" for name, page in pages.items() for link in page.loads if urlparse(link).netloc]
    assert not foreign


def test_hostile_text_stays_text(pages: dict[str, Page], root: Path) -> None:
    suspicious = {name: page.suspicious for name, page in pages.items() if page.suspicious}
    assert not suspicious
    for path in (root / "site").rglob("*.html"):
        html = path.read_text()
        for fragment in ("<script>alert", "onerror=alert(3)>", "<svg onload", "49 [x]"):
            assert fragment not in html.replace("&lt;", "").replace("<code>", ""), f"{path}: {fragment}"
    title = (root / "site/papers/hostile2021text/index.html").read_text().split("<title>")[1].split("</title>")[0]
    assert "<" not in title
    assert "script alert(1)" in title


def test_downloads_are_there(root: Path) -> None:
    for name in ("catalog.json", "catalog.bib", "papers/lin2017focal.bib", "objects.inv"):
        assert (root / "site" / name).stat().st_size > 100, name


def test_search_knows_every_page(pages: dict[str, Page], root: Path) -> None:
    """Those of either process, once."""
    entries = json.loads((root / "site/search/search_index.json").read_text())["docs"]
    whole = [entry["location"] for entry in entries if "#" not in entry["location"]]
    assert sorted(f"{location}index.html" for location in whole) == sorted(pages.keys() - {"404.html"})


def test_a_second_build_gives_the_same_bytes(root: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(root / "site", first)
    shutil.rmtree(root / "build")
    assert build(root) == 0
    assert _differences(filecmp.dircmp(first, root / "site")) == []


@pytest.mark.parametrize("broken", [None, "api/index.md", "index.md"])
def test_a_page_of_either_process_ends_the_build_with_its_broken_link(broken: str | None, tmp_path: Path) -> None:
    (tmp_path / "docs" / "api").mkdir(parents=True)
    for name in ("index.md", "api/index.md"):
        (tmp_path / "docs" / name).write_text("# A page\n\n[elsewhere](missing.md)" if name == broken else "# A page")
    hook = ROOT / "tools" / "halves.py"
    (tmp_path / "mkdocs.yml").write_text(f"{{site_name: Two pages, theme: {{name: material}}, plugins: [search], hooks: ['{hook}']}}")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.returncode == 0) == (broken is None)
    assert ("missing.md" in run.stderr) == (broken is not None)


def _differences(comparison: filecmp.dircmp) -> list[str]:
    found = [*comparison.left_only, *comparison.right_only]
    found += filecmp.cmpfiles(comparison.left, comparison.right, comparison.common_files, shallow=False)[1]
    return found + [name for sub in comparison.subdirs.values() for name in _differences(sub)]
