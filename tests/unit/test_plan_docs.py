"""The figures in docs/planning.md are those that the committed commands wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

from slipstream.plan.cost import COEFFICIENTS
from slipstream.plan.judge_table import accuracy_table


def test_the_accuracy_table_is_the_judges_verdict(root: Path) -> None:
    text = (root / "docs" / "planning.md").read_text()
    verdicts = json.loads((root / "perf" / "results" / "planner_accuracy.json").read_text())["verdicts"]
    assert accuracy_table(verdicts) in text
    assert f"fits {len(COEFFICIENTS)} coefficients" in text


def test_the_speed_table_is_the_measured_one(root: Path) -> None:
    text = (root / "docs" / "planning.md").read_text()
    for row in json.loads((root / "perf" / "results" / "simulator_speed.json").read_text())["rows"]:
        assert f"| {row['requests']:,} | {row['replicas']:,} | {row['cpu_s']:.2f} |" in text


def test_every_link_of_the_page_leads_to_a_file(root: Path) -> None:
    text = (root / "docs" / "planning.md").read_text()
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert len(links) >= 2
    assert all((root / "docs" / link).is_file() for link in links)


def test_no_throughput_verdict_is_worse_than_what_the_page_claims_for_others(root: Path) -> None:
    verdicts = json.loads((root / "perf" / "results" / "planner_accuracy.json").read_text())["verdicts"]
    throughput = {one["left_out"]: one for one in verdicts if one["quantity"] == "throughput"}
    assert throughput["curve"]["median"] < 0.05
    assert all(0.85 <= one["covered"] <= 0.96 for one in throughput.values())
