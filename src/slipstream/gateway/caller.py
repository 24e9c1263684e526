"""Who asks."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

Priority = Literal["high", "normal", "low"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerLimits:
    """What one caller may ask for; none is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    tokens_per_day: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The owner of a key or a token: what limits, queues, caches and logs tell requests apart by."""

    id: str  # of the key; in logs and metrics, never the key
    name: str
    models: tuple[str, ...] | None = None  # all, if none
    weight: float = 1.0  # share of the engine when it is full
    priority: Priority = "normal"
    limits: CallerLimits = CallerLimits()

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models


ANONYMOUS = Caller(id="anonymous", name="anonymous")  # where no keys are asked for
NOBODY = Caller(id="nobody", name="nobody", models=())  # on paths that need no key

# Who the running request is from. Set by the authentication alone, and read where models are looked up: an endpoint
# that forgot to ask cannot hand out a model that its caller may not use.
current_caller: ContextVar[Caller] = ContextVar("current_caller", default=ANONYMOUS)
