"""The table of docs/engine-formats.md is the one that was measured."""

import json
from pathlib import Path

from slipstream.perf.engine_formats import FormRow, format_rows


def test_the_table_in_the_docs_is_what_the_results_say(root: Path) -> None:
    results = json.loads((root / "perf" / "results" / "engine_formats.json").read_text())
    rows = [
        FormRow(**row | {"tokens_per_s": {int(streams): value for streams, value in row["tokens_per_s"].items()}})
        for row in results["rows"]
    ]
    assert format_rows(rows) in (root / "docs" / "engine-formats.md").read_text()
