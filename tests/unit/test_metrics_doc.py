"""docs/metrics.md describes every metric of the reference, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

from slipstream.backend.metric_families import ABSENT_FAMILIES, ABSENT_VALUES

ROOT = Path(__file__).parents[2]
FAMILIES = json.loads((ROOT / "tests/contract/trtllm-1.2.1/metrics.json").read_text("utf-8"))["families"]


def test_the_page_has_a_row_for_every_value_and_a_reason_for_what_is_absent() -> None:
    page = (ROOT / "docs/metrics.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", page, re.MULTILINE)
    present = [row for row in FAMILIES if row["name"] not in ABSENT_FAMILIES]
    assert sorted(value for value, _ in rows) == sorted(value for row in present for value in row["values"])
    for row in present:
        assert re.search(f"`{row['name']}[{{`]", page), row["name"]
    for values in ABSENT_VALUES.values():
        assert {(value, f"absent: {reason}") for value, reason in values.items()} <= set(rows)
    for name, reason in ABSENT_FAMILIES.items():
        assert f"`{name}`: {reason}" in page


def test_the_page_has_a_row_for_every_family_under_vllms_names() -> None:
    families = json.loads((ROOT / "tests/contract/vllm/metrics.json").read_text("utf-8"))["families"]
    page = (ROOT / "docs/metrics.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(vllm:\w+)` \| ([\w ]+) \|", page, re.MULTILINE))
    counted_here = "vllm:inter_token_latency_seconds"
    assert rows == {row["name"]: row["type"] for row in families} | {counted_here: "see below"}
