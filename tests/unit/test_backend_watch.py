"""How often the watch asks: often for few requests, and not for more than one token's worth of them for many."""

from __future__ import annotations

import threading

from slipstream.backend.watch import Watch


def a_watch(*, check_period_s: float = 0.01, step_s: float = 0.0) -> Watch:
    return Watch(
        list,
        lambda: None,
        threading.Event(),
        check_period_s=check_period_s,
        refresh_period_s=1.0,
        step_s=lambda: step_s,
    )


def test_a_single_check_is_made_in_every_period() -> None:
    assert a_watch().period_s(1) == 0.01


def test_the_questions_about_many_are_spread_up_to_a_limit() -> None:
    watch = a_watch()
    assert 0.01 < watch.period_s(2) < watch.period_s(3) < watch.period_s(5) == watch.period_s(1000) < 0.05


def test_the_limit_grows_with_a_step_of_the_engine() -> None:
    assert a_watch(step_s=0.05).period_s(1000) > a_watch().period_s(1000) + 0.049


def test_a_longer_period_that_is_configured_is_kept() -> None:
    assert a_watch(check_period_s=2.0).period_s(1000) == 2.0
