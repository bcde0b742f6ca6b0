"""A hook of mkdocs: a second process converts the pages that have no code to read and document, which is half of the work.

A page's conversion depends on no other page. What it gives and warns of, and what search reads in it, comes back in the order of the pages.
"""

import gc
import logging
from collections.abc import Iterator
from multiprocessing import get_context
from types import MethodType
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

PATIENCE = 300

# The process lives for seconds, and what it makes stays until the end.
gc.disable()


def on_startup(*, command: str, dirty: bool) -> None:
    """Warnings are shown, and counted by `--strict`, which `--quiet` would prevent; progress is not."""
    logging.getLogger("mkdocs").setLevel(logging.WARNING)


def on_nav(nav: Navigation, *, config: MkDocsConfig, files: Files) -> Navigation:
    """Once all pages are known: start the second process, and have the pages of its half wait for it."""
    pages = [file.page or Page(None, file, config) for file in files.documentation_pages() if not file.src_uri.startswith("api/")]
    fork = get_context("fork")
    converted = fork.Queue()
    fork.Process(target=_convert, args=(pages, config, files, converted), daemon=True).start()

    def received() -> Any:
        found, warnings = converted.get(timeout=PATIENCE)
        for record in warnings:
            logging.getLogger(record.name).handle(record)
        if isinstance(found, Exception):
            raise found
        return found

    def render(page: Page, config: MkDocsConfig, files: Files) -> None:
        found = received()
        found["links_to_anchors"] = {files.src_uris[uri]: links for uri, links in found["links_to_anchors"].items()}
        vars(page).update(found)

    def add_to_search(page: Page) -> None:
        if page in pages:
            index.entries += received()
        else:
            read_for_search(page)

    for page in pages:
        page.render = MethodType(render, page)  # type: ignore[method-assign]
    index = _search_index(config)
    read_for_search, index.add_entry_from_context = index.add_entry_from_context, add_to_search
    return nav


def _convert(pages: list[Page], config: MkDocsConfig, files: Files, converted: Any) -> None:
    """Of each page what `Page.render` sets, then of each page its entries for search; each with the records that were logged.

    An exception is the last that is given.
    """
    log, seen, index = logging.getLogger("mkdocs"), _Seen(), _search_index(config)
    log.handlers, log.propagate = [seen], False
    try:
        for page in pages:
            converted.put((dict(_rendered(page, config, files)), seen.records))
            seen.records = []
        for page in pages:
            index.entries = []
            index.add_entry_from_context(page)
            converted.put((index.entries, seen.records))
            seen.records = []
    except Exception as error:
        converted.put((error, seen.records))


def _rendered(page: Page, config: MkDocsConfig, files: Files) -> Iterator[tuple[str, Any]]:
    page.read_source(config)
    assert page.markdown is not None
    page.markdown = config.plugins.on_page_markdown(page.markdown, page=page, config=config, files=files)
    Page.render(page, config, files)
    for name in ("content", "toc", "_title_from_render", "present_anchor_ids"):
        yield name, getattr(page, name)
    yield "links_to_anchors", {file.src_uri: links for file, links in (page.links_to_anchors or {}).items()}


def _search_index(config: MkDocsConfig) -> Any:
    return config.plugins["material/search"].search_index  # type: ignore[attr-defined]


class _Seen(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
