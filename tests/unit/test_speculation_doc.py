"""The table of docs/speculation.md is the one that was measured, and the page names what there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slipstream.backend import speculation_control
from slipstream.perf.speculation import PAGE, RESULTS, Load, SpeculationRow, format_rows, write_results


def test_the_table_in_the_docs_is_what_the_results_say(root: Path) -> None:
    if not (root / RESULTS).exists():
        pytest.skip("perf/speculation.py has not been run")
    rows = [SpeculationRow(**row) for row in json.loads((root / RESULTS).read_text())["rows"]]
    assert format_rows(rows) in (root / PAGE).read_text()


def test_the_numbers_of_the_control_are_those_of_the_page(root: Path) -> None:
    page = " ".join((root / PAGE).read_text().split())
    control = speculation_control
    assert f"pays {control.SHARE:.0%}".replace("%", " %") in page
    assert f"holds {control.PURSE_STEPS} plain steps" in page
    assert f"a trial of {control.TRIAL_STEPS} steps" in page
    assert f"One request in {control.REFRESH}" in page
    assert f"last {control.KEPT_STEPS} plain steps" in page


def test_results_replace_the_table_and_leave_the_rest_of_the_page(root: Path, tmp_path: Path) -> None:
    row = SpeculationRow(
        text="copy",
        streams=4,
        way="ngram",
        tokens_per_s=100.4,
        ratio_to_plain=1.25,
        ratio_min=1.1,
        ratio_max=1.3,
        draft_tokens=60,
        acceptance_rate=0.5,
    )
    for path in (PAGE, RESULTS):
        (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / PAGE).write_text((root / PAGE).read_text())
    for _ in range(2):
        write_results(tmp_path, [row], Load(), draft=None)
    written = (tmp_path / PAGE).read_text()
    assert "| copy | 4 | ngram | 100 | 1.25 | 1.10–1.30 | 50% |" in written
    assert written.split("<!--")[0] == (root / PAGE).read_text().split("<!--")[0]
    assert SpeculationRow(**json.loads((tmp_path / RESULTS).read_text())["rows"][0]) == row
