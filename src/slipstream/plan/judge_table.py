"""The verdicts of the judge as the table that the documentation shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_NAMES = {
    "throughput": "throughput",
    "tpot": "TPOT",
    "ttft": "TTFT, closed loop",
    "online_ttft": "TTFT, online, simulated",
    "online_tpot": "ITL, online, simulated",
}


def accuracy_table(verdicts: Sequence[Mapping[str, float | str]]) -> str:
    """Markdown, one row a verdict."""
    lines = [
        "| predicted | left out | rows | groups | median | p90 | inside 90 % interval | analytic part alone, median |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in verdicts:
        shares = [f"{100 * float(one[key]):.1f} %" for key in ("median", "p90", "covered", "analytic_median")]
        name = _NAMES[str(one["quantity"])]
        lines.append(f"| {name} | {one['left_out']} | {one['rows']} | {one['groups']} | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"
