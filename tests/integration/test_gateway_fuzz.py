"""A sample of the long run of random bodies."""

from __future__ import annotations

from slipstream.perf.gateway_fuzz import run_fuzz


def test_random_bodies_break_nothing_and_leave_no_memory_behind() -> None:
    result = run_fuzz(3000, connections=4, seed=7, report=lambda _text, _fraction: None)
    assert result["complaints"] == []
    assert result["bodies"] == sum(result["statuses"].values()) == 3000
    assert result["statuses"]["200"] > 100, "not everything ended at the first check"
