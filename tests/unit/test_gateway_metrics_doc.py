"""docs/gateway-metrics.md against the families and against a live page."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from slipstream.gateway.observability.families import FAMILIES
from slipstream.gateway.observability.table import metrics_table
from tests.fakes.gateway import gateway, services_for

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/gateway-metrics.md").read_text("utf-8")


def test_the_table_is_the_one_that_is_generated() -> None:
    assert metrics_table() in PAGE, "run python -m slipstream.gateway.observability.table"


def test_a_live_page_has_every_family_of_the_table_and_no_other_of_its_own() -> None:
    with gateway(services_for("127.0.0.1:1")) as url, urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        found = {family.name: family.type for family in text_string_to_metric_families(answer.read().decode())}
    rows = dict(re.findall(r"^\| `([\w:]+)` \| (\w+) \|", PAGE, re.MULTILINE))
    own = {name: kind for name, kind in found.items() if not name.startswith("process_")}
    assert own == {name.removesuffix("_total"): kind for name, kind in rows.items()}


def test_families_under_vllms_names_are_vllms() -> None:
    theirs = {
        family["name"]: family
        for family in json.loads((ROOT / "tests/contract/vllm/metrics.json").read_text("utf-8"))["families"]
    }
    for family in FAMILIES:
        if family.name.startswith("vllm:"):
            wanted = theirs[family.name]
            assert family.kind == wanted["type"]
            assert sorted(family.labels) == sorted(
                ["engine", "model_name", *([wanted["label"]] if "label" in wanted else [])]
            )
            if isinstance(wanted.get("buckets"), list):
                assert list(family.buckets) == wanted["buckets"], family.name
