"""The page on conformance says what the tables of checks say."""

from __future__ import annotations

import re
from pathlib import Path

from slipstream.perf.conformance import ConformanceReport
from tests.integration.conformance import chat_rows, messages_rows, responses_rows

TABLES = {
    "/v1/chat/completions": chat_rows.REFUSED,
    "/v1/completions": responses_rows.COMPLETIONS_REFUSED,
    "/v1/messages": messages_rows.REFUSED,
    "/v1/responses": responses_rows.REFUSED,
}


def test_every_deviation_is_on_the_page_and_no_other(root: Path) -> None:
    page = (root / "docs" / "conformance.md").read_text()
    expected = [
        f"| `{endpoint}` | {row.name} | {row.deviation} |"
        for endpoint, rows in TABLES.items()
        for row in sorted(rows, key=lambda row: row.name)
        if row.deviation
    ]
    assert re.findall(r"^\| `/.*$", page, re.MULTILINE) == expected


def test_the_page_counts_by_client_what_was_called() -> None:
    class Report:
        def __init__(self, when: str, outcome: str, **properties: object) -> None:
            self.when, self.outcome, self.user_properties = when, outcome, list(properties.items())

    report = ConformanceReport()
    report.pytest_runtest_logreport(Report("call", "passed", client="a 1", deviation=("/x", "what", "why")))
    report.pytest_runtest_logreport(Report("call", "failed", client="a 1", deviation=("/x", "other", "")))
    report.pytest_runtest_logreport(Report("setup", "passed", client="a 1"))
    report.pytest_runtest_logreport(Report("call", "skipped", client="b 1"))
    assert "| a 1 | 2 | 1 | 50.0 % |\n| all | 2 | 1 | 50.0 % |\n" in report.page()
    assert report.page().count("| `/x` |") == 1
