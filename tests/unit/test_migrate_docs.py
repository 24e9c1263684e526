"""docs/migration.md says what `slipstream migrate` does."""

from __future__ import annotations

import re
from pathlib import Path

from slipstream.migrate.document import PAGE, TABLES, with_tables
from slipstream.migrate.tables import BACKEND_PARAMETERS, INPUTS


def page(root: Path) -> str:
    return (root / PAGE).read_text()


def test_every_table_is_in_the_page_as_it_is_now(root: Path) -> None:
    text = page(root)
    assert set(re.findall(r"<!-- table (\w+) -->", text)) == set(TABLES)
    assert text == with_tables(text), "run python -m slipstream.migrate.document"


def test_a_table_that_was_changed_by_hand_is_written_anew(root: Path) -> None:
    text = page(root)
    changed = text.replace("| `max_tokens` |", "| `max_length` |")
    assert changed != text
    assert with_tables(changed) == text


def test_the_tables_hold_rows(root: Path) -> None:
    text = page(root)
    for name in (*INPUTS, *BACKEND_PARAMETERS):
        assert f"| `{name}` |" in text


def test_the_deployment_of_the_example_exists_and_migrates_to_the_named_one(root: Path) -> None:
    from slipstream.migrate import migrate
    from slipstream.spec_file import load_deployment

    (name,) = re.findall(r"slipstream migrate (\S+)", page(root))
    assert migrate(load_deployment(name, root=root)).spec.name in page(root)
