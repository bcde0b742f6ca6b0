"""Contributor text on its way into a page: escaped, with formulas set and unverified statements marked."""

import re

from markupsafe import Markup, escape

from tools.tex import INLINE, to_mathml

UNVERIFIED = "recalled, unverified"

_UNSAFE_IN_A_TITLE = re.compile(r"[^\w .,:()'/+-]")
_CODE = re.compile("`([^`]+)`")
_MARKDOWN = re.compile(r"[^\w\s]|_", re.ASCII)


def prose(text: str) -> Markup:
    """Escaped HTML; `$...$` becomes MathML, backticks code, and the words that mark an unverified statement a visible mark."""
    parts = INLINE.split(text)
    html = "".join(str(formula(part)) if i % 2 else _CODE.sub(r"<code>\1</code>", str(escape(part))) for i, part in enumerate(parts))
    mark = f'<mark class="unverified" title="Nobody has checked this against its source yet">{UNVERIFIED}</mark>'
    return Markup(html.replace(UNVERIFIED, mark))


def formula(tex: str, *, display: bool = False) -> Markup:
    return Markup(to_mathml(tex, display=display))


def title(text: str) -> str:
    """Text for a page's title, which the theme does not escape: letters, digits and a little punctuation."""
    return " ".join(_UNSAFE_IN_A_TITLE.sub(" ", INLINE.sub(r"\1", text).replace("&", " and ")).split())


def heading(text: str) -> Markup:
    """Text for a Markdown heading: every punctuation mark as a character reference."""
    return Markup(_MARKDOWN.sub(lambda m: f"&#{ord(m[0])};", " ".join(text.split())))
