"""Keeps the state of one backend true: tokens while it is silent, signs of life while it should speak."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from slipstream.client import TokenRequest
from slipstream.client.failures import OverloadedError
from slipstream.errors import SlipstreamError
from slipstream.gateway.routing.backend import Backend

_MISSED_SIGNS = 3  # in a row: one alone may be this process, or the machine, being busy


class HealthWatch:
    """The tasks that look after one backend, from `start` to `stop`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin, in the running loop."""
        works: list[Coroutine[Any, Any, None]] = [_keep_probing(self._backend), _watch_connection(self._backend)]
        if (lost_after_s := self._backend.spec.lost_after_s) is not None:
            works.append(_feel_pulse(self._backend, lost_after_s / (_MISSED_SIGNS + 1)))
        self._tasks = [asyncio.create_task(work) for work in works]
        for task in self._tasks:
            task.add_done_callback(_report)

    async def stop(self) -> None:
        """End the tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _report(task: asyncio.Task[None]) -> None:
    """A watch ends by being stopped only; anything else is our own bug and must be seen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler({"message": "a backend is watched no more", "exception": error})


async def has_token(backend: Backend) -> bool:
    """Whether the model brings a token in time, for this request or, meanwhile, for another one."""
    asked_at = time.monotonic()
    probe = TokenRequest(input_ids=(0,), max_tokens=1)
    try:
        async with backend.client.send(probe, deadline_s=backend.spec.probe_timeout_s) as stream:
            async for _ in stream:
                return True
    except OverloadedError:
        return True
    except SlipstreamError:
        pass
    return backend.heard_at > asked_at


def next_probe_s(backend: Backend) -> float | None:
    """Seconds to the next probe; none while there is no reason for one."""
    if backend.state in {"joining", "away"}:
        return backend.breaker.trial_at - time.monotonic()
    period_s = backend.spec.probe_period_s
    return None if period_s is None else backend.heard_at + period_s - time.monotonic()


async def _keep_probing(backend: Backend) -> None:
    while backend.state != "draining":
        due_s = next_probe_s(backend)
        if due_s is None or due_s > 0:
            await _kick_within(backend, due_s)
            continue
        is_working = await has_token(backend)
        backend.probed(is_working=is_working)


async def _kick_within(backend: Backend, timeout_s: float | None) -> None:
    backend.kicked.clear()
    try:
        async with asyncio.timeout(timeout_s):
            await backend.kicked.wait()
    except TimeoutError:
        pass


async def _watch_connection(backend: Backend) -> None:
    """A server that ends or dies closes its connections: no request needs to find that out."""
    while True:
        client = backend.client
        await client.wait_until_lost()
        if client is backend.client and backend.is_up:
            backend.go_away()


async def _feel_pulse(backend: Backend, tick_s: float) -> None:
    """A server that stands still, or whose machine is gone, closes nothing: ask it while streams wait for it."""
    while True:
        await asyncio.sleep(tick_s)
        if backend.legs and not await _shows_life(backend, tick_s):
            backend.lose()


async def _shows_life(backend: Backend, tick_s: float) -> bool:
    for _ in range(_MISSED_SIGNS):
        asked_at = time.monotonic()
        if backend.heard_at > asked_at - tick_s or not backend.legs:
            return True
        if await backend.client.is_live(timeout_s=tick_s) or backend.heard_at > asked_at:
            return True
        # Where nothing listens the answer comes at once.
        await asyncio.sleep(max(0.0, asked_at + tick_s - time.monotonic()))
    return False
