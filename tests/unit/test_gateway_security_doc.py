"""The table of threats names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_test_in_the_table_of_threats_is_there(root: Path) -> None:
    text = (root / "docs" / "gateway-security.md").read_text()
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    assert len(named) > 20
    missing = [name for file, name in named if f"def {name}(" not in (root / "tests" / "unit" / file).read_text()]
    assert missing == []
