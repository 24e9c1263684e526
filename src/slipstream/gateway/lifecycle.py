"""Whether the gateway takes requests: from the first token of a model on, until it is told to end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from slipstream.gateway.served_model import ServedModel

Phase = Literal["serving", "leaving", "closing"]


@dataclass(slots=True)
class Lifecycle:
    """Of one process, over all its configurations."""

    phase: Phase = "serving"  # leaving: not ready, yet requests are taken; closing: they are refused


class Readiness:
    """Which models have given a token; from then on their backends say how they are."""

    def __init__(self) -> None:
        self._proved: set[str] = set()
        self._locks: dict[str, asyncio.Lock] = {}

    async def is_ready(self, model: ServedModel, probe: Callable[[ServedModel], Awaitable[bool]]) -> bool:
        async with self._locks.setdefault(model.name, asyncio.Lock()):
            if model.name not in self._proved and await probe(model):
                self._proved.add(model.name)
        return model.name in self._proved and model.backends.is_up
