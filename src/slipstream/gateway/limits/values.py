"""What passes between a request and the store that counts it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Literal, Protocol

from slipstream.gateway.caller import CallerLimits

LimitName = Literal["requests_per_minute", "tokens_per_minute", "tokens_per_day", "concurrent_requests"]

MINUTE_S = 60
DAY_S = 86_400
BUSY_RETRY_S = 1.0  # nobody knows when a caller's other request ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One request, as its caller's limits see it."""

    caller_id: str
    limits: CallerLimits
    tokens: int  # of its prompts, and the most that may come out
    lease: str = field(default_factory=lambda: secrets.token_hex(8))  # names its place among concurrent requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a caller has used, this request included where it was let in; 0 where there is no limit."""

    requests: int = 0  # of the last minute
    requests_reset_s: float = 0  # until none of them counts
    tokens: int = 0
    tokens_reset_s: float = 0
    tokens_today: int = 0
    day_reset_s: float = 0
    running: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A request that is over a limit; nothing of it is counted."""

    limit: LimitName
    retry_after_s: float
    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """A request that was let in, and when it was counted: what it does not use is given back there."""

    demand: Demand
    store: LimitStore
    second: int  # of the clock of the store
    day: int
    standing: Standing


class StoreFailedError(Exception):
    """The store did not answer, or not in time."""


class LimitStore(Protocol):
    """Counts requests and tokens of callers; all limits of a request are checked and counted in one step, or none."""

    async def reserve(self, demand: Demand) -> Reserved | Refused:
        """Count the request and all its tokens, if every limit has room; `StoreFailedError` if it cannot be known."""
        ...

    async def settle(self, reserved: Reserved, *, tokens: int, requests: int = 1) -> None:
        """The request has ended and took that much: the rest is given back, and its place among concurrent ones."""
        ...

    async def close(self) -> None:
        """Finish what is under way."""
        ...
