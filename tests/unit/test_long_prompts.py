"""Gaps between tokens around a long prompt."""

from __future__ import annotations

from slipstream.perf.long_prompts import _gaps_over, _windows


def test_the_gap_that_holds_the_whole_prompt_counts() -> None:
    assert _gaps_over([0.0, 1.0, 9.0, 10.0], 1.5, 8.0) == [8000.0]


def test_gaps_before_and_after_do_not_count() -> None:
    assert _gaps_over([0.0, 1.0, 3.0, 6.0, 8.0, 9.0], 2.0, 7.0) == [2000.0, 3000.0, 2000.0]


def test_no_two_prompts_begin_alike() -> None:
    take = _windows([5] * 100)
    first, second = take(10), take(10)
    assert len(first) == len(second) == 10
    assert first[0] != second[0]
