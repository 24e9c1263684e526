"""The report for a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from slipstream.doctor.findings import Finding, Report

_MARKS = {"critical": "✗", "high": "✗", "medium": "!", "low": "·", "info": "·"}
_NOTHING = "nothing to do"


def report_text(report: Report, *, every: bool = False) -> str:
    """Verdict and findings; vulnerabilities that clients cannot reach are counted, unless `every` one is asked for."""
    lines = [f"{report.subject}: {report.verdict}"]
    for finding in report.findings:
        if every or not finding.is_aside:
            lines += _lines(finding)
    aside = [finding for finding in report.findings if finding.is_aside]
    if aside and not every:
        lines.append(_summary(aside))
    return "\n".join(lines) + "\n"


def _lines(finding: Finding) -> Iterator[str]:
    yield f"{_MARKS[finding.severity]} {finding.severity:<8} {finding.id}: {finding.what}"
    if not finding.mend.startswith(_NOTHING):
        yield f"           mend: {finding.mend}"


def _summary(aside: Sequence[Finding]) -> str:
    local = [finding for finding in aside if finding.severity != "info"]
    mark = _MARKS[local[0].severity if local else "info"]
    return (
        f"{mark} {len(aside)} more known vulnerabilities of these versions: {len(local)} that only this machine's own"
        f" processes can reach, {len(aside) - len(local)} in parts that are not in use; --all names each with its"
        " mitigation"
    )
