"""Generated parts of hand-written pages."""

from __future__ import annotations

import re
from pathlib import Path


def put_section(page: Path, name: str, text: str) -> None:
    """Replace what is between `<!-- begin name -->` and `<!-- end name -->` in `page`."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    old = page.read_text(encoding="utf-8")
    parts = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
    new, found = parts.subn(lambda match: f"{match[1]}{text}\n{match[2]}", old)
    assert found == 1, f"{page}: the marks of {name} are there {found} times"
    page.write_text(new, encoding="utf-8")
