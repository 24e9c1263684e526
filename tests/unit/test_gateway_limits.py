"""Limits of callers, counted in memory: exact at every moment, whatever comes when."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.gateway.caller import CallerLimits
from slipstream.gateway.limits.headers import duration, rate_headers
from slipstream.gateway.limits.memory import MemoryStore
from slipstream.gateway.limits.values import Demand, Refused, Reserved, Standing
from tests.unit.limit_steps import NOON, Ask, Clock, Granted, Step, play, some_limits, some_steps


def reserve(store: MemoryStore, limits: CallerLimits, *, caller: str = "a", tokens: int = 1) -> Reserved | Refused:
    return asyncio.run(store.reserve(Demand(caller_id=caller, limits=limits, tokens=tokens)))


def settle(store: MemoryStore, reserved: Reserved | Refused, *, tokens: int, requests: int = 1) -> None:
    assert isinstance(reserved, Reserved)
    asyncio.run(store.settle(reserved, tokens=tokens, requests=requests))


def counted(granted: Sequence[Granted], caller: str, after_s: float, until_s: float) -> tuple[int, int]:
    """Requests and tokens that were let in between."""
    those = [g for g in granted if g.reserved.demand.caller_id == caller and after_s < g.at_s <= until_s]
    return sum(g.requests for g in those), sum(g.tokens for g in those)


@given(some_limits, some_steps)
def test_no_minute_and_no_day_holds_more_than_the_limit(limits: CallerLimits, steps: list[Step]) -> None:
    clock = Clock()
    granted, _ = asyncio.run(play(MemoryStore(clock), clock, limits, steps))
    for caller in "ab":
        for one in granted:
            requests, tokens = counted(granted, caller, one.at_s - 60, one.at_s)
            assert requests <= (limits.requests_per_minute or math.inf)
            assert tokens <= (limits.tokens_per_minute or math.inf)
            midnight = one.at_s - one.at_s % 86_400
            _, today = counted(granted, caller, midnight - 0.001, midnight + 86_399.999)
            assert today <= (limits.tokens_per_day or math.inf)
        running = [g for g in granted if not g.has_ended and g.reserved.demand.caller_id == caller]
        assert len(running) <= (limits.concurrent_requests or math.inf)


@given(st.lists(st.integers(0, 240), max_size=60))
def test_no_minute_wherever_it_begins_holds_more_requests_than_the_limit(quarters: list[int]) -> None:
    clock = Clock()
    store = MemoryStore(clock)
    came: list[float] = []

    async def ask_after_each() -> None:
        for quarter in quarters:
            clock.now_s += quarter / 4
            demand = Demand(caller_id="a", limits=CallerLimits(requests_per_minute=2), tokens=1)
            if isinstance(await store.reserve(demand), Reserved):
                came.append(clock.now_s)

    asyncio.run(ask_after_each())
    assert all(third - first >= 60 for first, third in zip(came, came[2:], strict=False))


@given(some_limits, st.lists(st.builds(Ask, st.just("a"), st.integers(1, 120)), max_size=40))
def test_what_is_refused_is_over_the_limit_that_it_names(limits: CallerLimits, asks: list[Ask]) -> None:
    clock = Clock()
    granted, refused = asyncio.run(play(MemoryStore(clock), clock, limits, asks))
    assert len(granted) + len(refused) == len(asks)
    for _, ask, why in refused:
        used = {
            "requests_per_minute": why.standing.requests + 1,
            "tokens_per_minute": why.standing.tokens + ask.tokens,
            "tokens_per_day": why.standing.tokens_today + ask.tokens,
            "concurrent_requests": why.standing.running + 1,
        }
        assert used[why.limit] > getattr(limits, why.limit)


@given(st.lists(st.tuples(st.integers(1, 100), st.floats(0, 20)), max_size=20), st.integers(1, 100))
def test_retry_after_is_the_time_until_the_request_fits(before: list[tuple[int, float]], tokens: int) -> None:
    limits, clock = CallerLimits(tokens_per_minute=100), Clock()
    store = MemoryStore(clock)
    for amount, wait_s in before:
        reserve(store, limits, tokens=amount)
        clock.now_s += wait_s
    found = reserve(store, limits, tokens=tokens)
    if isinstance(found, Refused):
        came_at = clock.now_s
        clock.now_s = came_at + found.retry_after_s - 0.01
        assert isinstance(reserve(store, limits, tokens=tokens), Refused)
        clock.now_s = came_at + found.retry_after_s + 0.000_001
        assert isinstance(reserve(store, limits, tokens=tokens), Reserved)


@pytest.mark.parametrize("name", ["requests_per_minute", "concurrent_requests"])
def test_of_many_that_come_at_once_exactly_as_many_get_in_as_the_limit_says(name: str) -> None:
    store, limits = MemoryStore(), CallerLimits(**{name: 7})

    async def all_at_once() -> list[Reserved | Refused]:
        return await asyncio.gather(*(store.reserve(Demand(caller_id="a", limits=limits, tokens=1)) for _ in range(50)))

    assert sum(isinstance(found, Reserved) for found in asyncio.run(all_at_once())) == 7


def test_a_refused_request_counts_nowhere() -> None:
    limits, store = CallerLimits(requests_per_minute=1, tokens_per_minute=100), MemoryStore(Clock())
    assert isinstance(reserve(store, limits, tokens=200), Refused)
    assert isinstance(reserve(store, limits, tokens=100), Reserved)


def test_unused_tokens_are_given_back() -> None:
    limits, store = CallerLimits(tokens_per_minute=100, tokens_per_day=150), MemoryStore(Clock())
    settle(store, reserve(store, limits, tokens=100), tokens=20)
    found = reserve(store, limits, tokens=80)
    assert isinstance(found, Reserved)
    assert (found.standing.tokens, found.standing.tokens_today) == (100, 100)


def test_tokens_are_not_given_back_to_a_later_minute_or_day() -> None:
    limits, clock = CallerLimits(tokens_per_minute=100, tokens_per_day=100), Clock(NOON + 43_190)
    store = MemoryStore(clock)
    old = reserve(store, limits, tokens=100)
    clock.now_s += 75
    reserve(store, limits, tokens=60)
    settle(store, old, tokens=0)
    assert isinstance(reserve(store, limits, tokens=60), Refused)


def test_a_request_that_was_never_answered_gives_its_place_back() -> None:
    limits, store = CallerLimits(requests_per_minute=1, concurrent_requests=1), MemoryStore(Clock())
    settle(store, reserve(store, limits), tokens=0, requests=0)
    assert isinstance(reserve(store, limits), Reserved)


def test_a_day_ends_at_midnight_utc() -> None:
    limits, clock = CallerLimits(tokens_per_day=10), Clock(NOON + 43_100)
    store = MemoryStore(clock)
    reserve(store, limits, tokens=10)
    found = reserve(store, limits, tokens=1)
    assert isinstance(found, Refused)
    assert found.retry_after_s == 100
    clock.now_s += 100
    assert isinstance(reserve(store, limits, tokens=10), Reserved)


def test_callers_of_whom_nothing_counts_are_forgotten() -> None:
    limits, clock = CallerLimits(requests_per_minute=5), Clock()
    store = MemoryStore(clock)
    for number in range(3000):
        clock.now_s += 1
        settle(store, reserve(store, limits, caller=str(number)), tokens=0)
    assert len(store._callers) < 1200


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (0.2, "1s"), (59, "59s"), (59.1, "1m0s"), (360, "6m0s"), (86_399.5, "24h0m0s")]
)
def test_durations_read_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_headers_show_the_limit_of_tokens_that_is_closer() -> None:
    limits = CallerLimits(requests_per_minute=60, tokens_per_minute=1000, tokens_per_day=5000)
    standing = Standing(
        requests=1, requests_reset_s=60.5, tokens=400, tokens_reset_s=30, tokens_today=4900, day_reset_s=7200
    )
    assert rate_headers(limits, standing) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1m1s",
        "x-ratelimit-limit-tokens": "5000",
        "x-ratelimit-remaining-tokens": "100",
        "x-ratelimit-reset-tokens": "2h0m0s",
    }
