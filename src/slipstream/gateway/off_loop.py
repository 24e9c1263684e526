"""Long texts are tokenized beside the event loop: 4 MB take seconds, in which no other stream would move."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from slipstream.gateway.exchange import Exchange

_LONG_BODY_BYTES = 32_768  # below, a thread costs more than it saves

T = TypeVar("T")


async def off_loop(exchange: Exchange, work: Callable[[], T]) -> T:
    """What `work` gives; it runs in a thread where the request's body is long."""
    if exchange.body_bytes < _LONG_BODY_BYTES:
        return work()
    return await asyncio.to_thread(work)
