"""Whether the gateway takes requests: from the first token of a model on, until it is told to end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from slipstream.gateway.served_model import ServedModel

Phase = Literal["serving", "leaving", "closing"]


@dataclass(slots=True)
class Lifecycle:
    """Of one process, over all its configurations."""

    phase: Phase = "serving"  # leaving: not ready, yet requests are taken; closing: they are refused


@dataclass(slots=True)
class _Known:
    is_good: bool = False
    until: float = 0.0  # time.monotonic()
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Readiness:
    """Whether a model gives a token; what is known is good for a few seconds, and asked for once at a time."""

    def __init__(self, *, good_s: float = 10, bad_s: float = 1) -> None:
        self._good_s = good_s
        self._bad_s = bad_s
        self._known: dict[str, _Known] = {}

    async def is_ready(self, model: ServedModel, probe: Callable[[ServedModel], Awaitable[bool]]) -> bool:
        known = self._known.setdefault(model.name, _Known())
        async with known.lock:
            if time.monotonic() >= known.until:
                known.is_good = await probe(model)
                known.until = time.monotonic() + (self._good_s if known.is_good else self._bad_s)
            return known.is_good
