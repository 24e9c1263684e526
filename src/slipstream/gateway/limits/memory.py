"""Counts in the memory of this process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from slipstream.gateway.caller import CallerLimits
from slipstream.gateway.limits.values import BUSY_RETRY_S, DAY_S, Demand, LimitName, Refused, Reserved, Standing
from slipstream.gateway.limits.window import SlidingMinute

_SWEEP_EVERY = 1024  # reservations


@dataclass(slots=True)
class _Counts:
    """Of one caller."""

    requests: SlidingMinute = field(default_factory=SlidingMinute)
    tokens: SlidingMinute = field(default_factory=SlidingMinute)
    day: int = 0
    tokens_today: int = 0
    leases: set[str] = field(default_factory=set)

    def forget(self, now_s: float) -> None:
        self.requests.forget(now_s)
        self.tokens.forget(now_s)
        if (today := math.floor(now_s) // DAY_S) != self.day:
            self.day, self.tokens_today = today, 0

    @property
    def is_empty(self) -> bool:
        return not (self.leases or self.requests.used or self.tokens.used or self.tokens_today)


class MemoryStore:
    """A `LimitStore` for one process."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._now_s = 0.0
        self._callers: dict[str, _Counts] = {}
        self._until_sweep = _SWEEP_EVERY

    async def reserve(self, demand: Demand) -> Reserved | Refused:
        """See `LimitStore`."""
        self._now_s = now_s = max(self._now_s, self._clock())
        self._sweep()
        counts = self._callers.setdefault(demand.caller_id, _Counts())
        counts.forget(now_s)
        waits = _waits(counts, demand, now_s)
        if waits:
            limit = max(waits, key=lambda name: waits[name])
            return Refused(limit=limit, retry_after_s=waits[limit], standing=_standing(counts, demand.limits, now_s))
        second = math.floor(now_s)
        _count(counts, demand, second)
        standing = _standing(counts, demand.limits, now_s)
        return Reserved(demand=demand, store=self, second=second, day=counts.day, standing=standing)

    async def settle(self, reserved: Reserved, *, tokens: int, requests: int = 1) -> None:
        """See `LimitStore`."""
        counts = self._callers.get(reserved.demand.caller_id)
        if counts is None:
            return
        limits, unused = reserved.demand.limits, reserved.demand.tokens - tokens
        counts.leases.discard(reserved.demand.lease)
        if limits.requests_per_minute is not None and requests == 0:
            counts.requests.give_back(reserved.second, 1)
        if limits.tokens_per_minute is not None:
            counts.tokens.give_back(reserved.second, unused)
        if limits.tokens_per_day is not None and counts.day == reserved.day:
            counts.tokens_today -= unused

    async def close(self) -> None:
        """Nothing is under way."""

    def _sweep(self) -> None:
        """Forget callers of whom nothing counts any more: there may be as many as an issuer of tokens has users."""
        self._until_sweep -= 1
        if self._until_sweep > 0:
            return
        self._until_sweep = max(_SWEEP_EVERY, len(self._callers))
        for counts in self._callers.values():
            counts.forget(self._now_s)
        self._callers = {caller: counts for caller, counts in self._callers.items() if not counts.is_empty}


def _waits(counts: _Counts, demand: Demand, now_s: float) -> dict[LimitName, float]:
    """The limits that have no room, and the time until each of them has."""
    limits = demand.limits
    waits: dict[LimitName, float] = {}
    if limits.requests_per_minute is not None:
        waits["requests_per_minute"] = counts.requests.wait_s(1, limits.requests_per_minute, now_s)
    if limits.tokens_per_minute is not None:
        waits["tokens_per_minute"] = counts.tokens.wait_s(demand.tokens, limits.tokens_per_minute, now_s)
    if limits.tokens_per_day is not None and counts.tokens_today + demand.tokens > limits.tokens_per_day:
        waits["tokens_per_day"] = _day_reset_s(now_s)
    if limits.concurrent_requests is not None and len(counts.leases) >= limits.concurrent_requests:
        waits["concurrent_requests"] = BUSY_RETRY_S
    return {name: wait_s for name, wait_s in waits.items() if wait_s > 0}


def _count(counts: _Counts, demand: Demand, second: int) -> None:
    limits = demand.limits
    if limits.requests_per_minute is not None:
        counts.requests.add(second, 1)
    if limits.tokens_per_minute is not None:
        counts.tokens.add(second, demand.tokens)
    if limits.tokens_per_day is not None:
        counts.tokens_today += demand.tokens
    if limits.concurrent_requests is not None:
        counts.leases.add(demand.lease)


def _standing(counts: _Counts, limits: CallerLimits, now_s: float) -> Standing:
    return Standing(
        requests=counts.requests.used,
        requests_reset_s=counts.requests.reset_s(now_s),
        tokens=counts.tokens.used,
        tokens_reset_s=counts.tokens.reset_s(now_s),
        tokens_today=counts.tokens_today,
        day_reset_s=_day_reset_s(now_s) if limits.tokens_per_day is not None else 0,
        running=len(counts.leases),
    )


def _day_reset_s(now_s: float) -> float:
    return DAY_S - now_s % DAY_S
