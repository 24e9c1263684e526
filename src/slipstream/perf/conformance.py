"""The official clients' checks, counted, and the page that says how they went."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

_PAGE = """# Conformance

The official clients against the gateway in front of the bundled SmolLM2-135M-Instruct, every check over HTTP. Written
by `.venv/bin/python perf/conformance.py`; the checks are the tables under `tests/integration/conformance/`.

| client | checks | passed | score |
|---|---:|---:|---:|
{scores}

## Deviations

What the API's maker answers and this refuses, with status 400 and the field's name. Each is a check above: it passes
when the client reports the refusal.

| endpoint | what | why |
|---|---|---|
{deviations}
"""


class Report(Protocol):
    """What pytest says of one phase of one test."""

    when: str
    outcome: str
    user_properties: list[tuple[str, Any]]


@dataclass
class ConformanceReport:
    """A plugin of pytest that counts checks by client."""

    checks: Counter[str] = field(default_factory=Counter)
    passed: Counter[str] = field(default_factory=Counter)
    deviations: set[tuple[str, str, str]] = field(default_factory=set)

    def pytest_runtest_logreport(self, report: Report) -> None:
        """Take one result; a check that is skipped or whose set-up failed names no client and counts nowhere."""
        properties = dict(report.user_properties)
        if report.when != "call" or report.outcome == "skipped" or "client" not in properties:
            return
        self.checks[properties["client"]] += 1
        self.passed[properties["client"]] += report.outcome == "passed"
        endpoint, what, why = properties.get("deviation", ("", "", ""))
        if why:
            self.deviations.add((endpoint, what, why))

    def page(self) -> str:
        """The page."""
        rows = [(client, count, self.passed[client]) for client, count in sorted(self.checks.items())]
        rows.append(("all", self.checks.total(), self.passed.total()))
        scores = "\n".join(
            f"| {client} | {count} | {passed} | {100 * passed / max(count, 1):.1f} % |"
            for client, count, passed in rows
        )
        deviations = "\n".join(f"| `{endpoint}` | {what} | {why} |" for endpoint, what, why in sorted(self.deviations))
        return _PAGE.format(scores=scores, deviations=deviations)
