"""The same request on two backends: the first to bring a chunk answers, the other one is ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from slipstream.client import Chunk
from slipstream.errors import SlipstreamError
from slipstream.gateway.routing.leg import Leg


@dataclass(frozen=True, slots=True)
class First:
    """The leg that won, and its chunk; none if its reply is empty."""

    leg: Leg
    chunk: Chunk | None


async def first_of(leg: Leg, second: Callable[[], Leg | None], *, after_s: float) -> First:
    """The first chunk of `leg`, or of the leg that `second` starts when none has come after `after_s`.

    A failure of one leaves the other one; `SlipstreamError` is the failure of the last.
    """
    legs = {asyncio.ensure_future(_first(leg)): leg}
    winner: Leg | None = None
    try:
        done, _ = await asyncio.wait(legs, timeout=after_s)
        if not done and (other := second()) is not None:
            legs[asyncio.ensure_future(_first(other))] = other
        result = await _winner(set(legs))
        winner = result.leg
        return result
    finally:
        await _end([task for task, one in legs.items() if one is not winner])
        for one in legs.values():
            if one is not winner:
                one.close()


async def _first(leg: Leg) -> First:
    try:
        return First(leg, await leg.next())
    except StopAsyncIteration:
        return First(leg, None)


async def _winner(running: set[asyncio.Task[First]]) -> First:
    while True:
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            error = task.exception()
            if error is None:
                return task.result()
            if not isinstance(error, SlipstreamError) or not running:
                raise error


async def _end(tasks: list[asyncio.Task[First]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
