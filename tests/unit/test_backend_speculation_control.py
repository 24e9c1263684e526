"""The control of speculation, fed with steps of a machine that exists on paper: no clock is asked."""

from __future__ import annotations

import pytest

from slipstream.backend.speculation_control import PURSE_STEPS, SHARE, TRIAL_STEPS, SpeculationControl

PLAIN_S = 0.010
PROMPT_TOKENS = 64


def a_control(*, streams: int = 1, steps: int = 0, forecasts: bool = True, brings: float = 2.5) -> SpeculationControl:
    """A control that has seen a prompt and `steps` plain steps of `streams` requests."""
    control = SpeculationControl(forecasts=forecasts)
    control.note_prompt(streams, PROMPT_TOKENS, 0.040)
    for _ in range(steps):
        control.note_plain(streams, streams, PLAIN_S)
    if forecasts:
        control.note_yields([brings] * 64)
    return control


def seconds_without(control: SpeculationControl, *, price: float, brings: float, seconds: float, streams: int) -> float:
    """Run for `seconds`; how long the same tokens would have taken had nothing speculated."""
    passed_s = same_s = brought = 0.0
    speculating, left = False, 0
    while passed_s < seconds:
        if left <= 0:  # the requests of before have ended, and as many begin
            left, speculating = 128 * streams, control.may_begin(streams, PROMPT_TOKENS * streams)
        if speculating and control.must_stop(streams, PROMPT_TOKENS * streams):
            speculating = False
            control.note_move(streams, PROMPT_TOKENS * streams)
            passed_s += control.prompt_price_s(PROMPT_TOKENS * streams)
        brought += brings * streams if speculating else 0.0
        tokens, took_s = (int(brought), price * PLAIN_S) if speculating else (streams, PLAIN_S)
        brought -= tokens if speculating else 0.0
        if speculating:
            control.note_speculative(streams, tokens, 0, took_s)
        else:
            control.note_plain(streams, tokens, took_s)
        passed_s += took_s
        same_s += tokens / streams * PLAIN_S
        left -= tokens
    return same_s / passed_s


def test_nothing_speculates_before_plain_steps_are_measured() -> None:
    assert not a_control(steps=3).may_begin(1, PROMPT_TOKENS)


def test_nothing_speculates_before_the_account_can_pay_for_moving_back() -> None:
    assert not a_control(steps=500).may_begin(1, PROMPT_TOKENS)
    assert a_control(steps=6000).may_begin(1, PROMPT_TOKENS)
    assert not a_control(steps=6000).may_begin(1, 1000)


def test_what_lookup_would_not_bring_is_not_tried() -> None:
    assert not a_control(steps=100_000, brings=1.0).may_begin(1, PROMPT_TOKENS)


def test_a_draft_is_tried_without_a_forecast() -> None:
    assert a_control(steps=6000, forecasts=False).may_begin(1, PROMPT_TOKENS)


def test_more_streams_than_were_measured_do_not_speculate() -> None:
    assert not a_control(steps=6000).may_begin(2, PROMPT_TOKENS)


def test_few_streams_after_many_wait_until_it_stays_so() -> None:
    control = a_control(steps=6000)
    control.note_plain(8, 8, PLAIN_S)
    assert not control.may_begin(1, PROMPT_TOKENS)
    for _ in range(64):
        control.note_plain(1, 1, PLAIN_S)
    assert control.may_begin(1, PROMPT_TOKENS)


def test_now_and_then_a_request_runs_without_so_that_the_comparison_stays_young() -> None:
    control = a_control(steps=6000)
    assert [control.may_begin(1, PROMPT_TOKENS) for _ in range(32)].count(False) == 1


def test_requests_that_lose_are_told_to_stop() -> None:
    control = a_control(steps=20_000)
    assert control.may_begin(1, PROMPT_TOKENS)
    for _ in range(TRIAL_STEPS):
        assert not control.must_stop(1, PROMPT_TOKENS)
        control.note_speculative(1, 1, 0, 3 * PLAIN_S)
    assert control.must_stop(1, PROMPT_TOKENS)


def test_requests_that_win_stop_as_well_when_the_account_cannot_pay_for_moving_them() -> None:
    control = a_control(steps=20_000)
    assert control.may_begin(1, PROMPT_TOKENS)
    for _ in range(2 * TRIAL_STEPS):
        control.note_speculative(1, 3, 0, 1.2 * PLAIN_S)
    assert not control.must_stop(1, PROMPT_TOKENS)
    assert control.must_stop(1, 100 * PROMPT_TOKENS)


@pytest.mark.parametrize("streams", [1, 4, 16])
@pytest.mark.parametrize("forecasts", [True, False])
@pytest.mark.parametrize(
    ("price", "brings"), [(1.1, 1.0), (1.5, 1.49), (3.0, 1.33), (8.0, 2.0), (3.0, 2.95), (1.3, 2.5)]
)
def test_a_server_is_never_slower_than_the_share_that_it_may_spend(
    streams: int, forecasts: bool, price: float, brings: float
) -> None:
    control = a_control(streams=streams, forecasts=forecasts, brings=brings)
    control.note_prompt(streams, 1000, 0.6)
    ratio = seconds_without(control, price=price, brings=brings, seconds=200, streams=streams)
    assert ratio >= 1 - SHARE - 0.005


@pytest.mark.parametrize("forecasts", [True, False])
def test_what_pays_is_used(forecasts: bool) -> None:
    control = a_control(forecasts=forecasts)
    assert seconds_without(control, price=1.2, brings=2.4, seconds=200, streams=1) > 1.5


def test_one_bad_phase_after_a_good_one_costs_no_more_than_the_purse() -> None:
    control = a_control(forecasts=False)
    seconds_without(control, price=1.2, brings=2.4, seconds=500, streams=1)
    bad_s = 100.0
    ratio = seconds_without(control, price=6.0, brings=1.0, seconds=bad_s, streams=1)
    assert bad_s * (1 - ratio) <= PURSE_STEPS * PLAIN_S + SHARE * bad_s + 6 * PLAIN_S
