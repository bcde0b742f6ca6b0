"""What the hand-written pages show as code runs, one block after the other, and prints what they say it prints."""

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("document", ["README.md", "docs/training.md"])
def test_its_code_prints_what_it_says(document: str) -> None:
    names: dict[str, object] = {"__name__": document}
    blocks = BLOCK.findall((ROOT / document).read_text())
    assert blocks
    for code, expected in blocks:
        printed = StringIO()
        with redirect_stdout(printed):
            exec(compile(code, document, "exec"), names)
        assert printed.getvalue() == expected
