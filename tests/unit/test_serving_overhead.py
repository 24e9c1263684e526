"""The table of docs/serving-performance.md is the one that was measured, and a row compares runs of one round."""

import json
from pathlib import Path

from slipstream.perf.bare_engine import Run
from slipstream.perf.serving_overhead import Load, OverheadRow, _rows, _Way, full_loads, overhead_table


def a_run(*, wall_s: float, responses: int = 10, ttft_p50_ms: float = 5.0) -> Run:
    return Run(tokens=40, responses=responses, wall_s=wall_s, cpu_s=0.002, client_cpu_s=0.001, ttft_p50_ms=ttft_p50_ms)


def test_the_table_in_the_docs_is_what_the_results_say(root: Path) -> None:
    results = json.loads((root / "perf" / "results" / "serving_overhead.json").read_text())
    rows = [OverheadRow(**row) for row in results["rows"]]
    assert overhead_table(rows) in (root / "docs" / "serving-performance.md").read_text()


def test_a_ratio_is_taken_round_by_round() -> None:
    load = Load(prompt_tokens=64, output_tokens=4, streams=10, intervals=("4",), rounds=3)
    bare = [a_run(wall_s=1.0), a_run(wall_s=4.0), a_run(wall_s=1.0)]
    way = [a_run(wall_s=2.0, ttft_p50_ms=7.0), a_run(wall_s=8.0, ttft_p50_ms=7.0), a_run(wall_s=1.0, ttft_p50_ms=6.0)]
    _, row = _rows(load, {_Way("bare", ""): bare, _Way("ensemble", "4"): way})
    assert (row.ratio_to_bare, row.ratio_min, row.ratio_max) == (0.5, 0.5, 1.0)
    assert (row.tokens_per_response, row.server_cpu_us_per_response, row.client_cpu_us_per_response) == (4.0, 200, 100)
    assert (row.ttft_p50_ms, row.ttft_added_ms) == (7.0, 2.0)


def test_every_load_of_the_page_has_single_tokens_and_the_short_prompts_have_groups_of_four() -> None:
    loads = full_loads(3)
    assert {load.streams for load in loads} == {1, 4, 16, 32, 64}
    assert all("1" in load.intervals for load in loads)
    assert all("4" in load.intervals for load in loads if load.prompt_tokens == 64)
