"""What limits and the queue cost a request: CPU time of the gateway's process, without HTTP and without an engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from slipstream.gateway.caller import Caller, CallerLimits
from slipstream.gateway.limits.memory import MemoryStore
from slipstream.gateway.limits.redis_store import RedisStore, connect
from slipstream.gateway.limits.values import Demand, LimitStore, Reserved
from slipstream.gateway.queueing.capacity import Capacity
from slipstream.gateway.queueing.fair_queue import FairQueue, Place
from slipstream.spec import GatewayAdmissionSpec

_MANY = 10**9
_LIMITS = CallerLimits(
    requests_per_minute=_MANY, tokens_per_minute=_MANY, concurrent_requests=_MANY, tokens_per_day=_MANY
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionCost:
    """One case: CPU and wall time a request."""

    case: str
    requests: int
    cpu_us: float
    wall_us: float


def measure_admission(redis_url: str | None) -> list[AdmissionCost]:
    """One row a case; those of Redis where its URL is given."""
    return asyncio.run(_measure(redis_url))


def admission_table(rows: list[AdmissionCost]) -> str:
    """As Markdown."""
    lines = ["| case | requests | CPU µs a request | wall µs a request |", "|---|---|---|---|"]
    lines += [f"| {row.case} | {row.requests} | {row.cpu_us:.1f} | {row.wall_us:.1f} |" for row in rows]
    return "\n".join(lines)


async def _measure(redis_url: str | None) -> list[AdmissionCost]:
    rows = [
        await _timed("four limits in memory", 20_000, _limits(MemoryStore())),
        await _timed("the queue, with room", 20_000, _roomy_queue()),
        await _timed("the queue, 10 callers with 10 requests each wait", 5_000, await _crowded_queue(10, 10)),
        await _timed("the queue, 900 callers wait", 2_000, await _crowded_queue(900, 1)),
    ]
    if redis_url is not None:
        store = RedisStore(connect(redis_url, timeout_s=5), prefix="slipstream-measured")
        rows.append(await _timed("four limits in Redis, one after the other", 2_000, _limits(store)))
        await store.close()
    return rows


async def _timed(case: str, requests: int, request: Callable[[], Awaitable[None]]) -> AdmissionCost:
    for _ in range(requests // 10):
        await request()
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    for _ in range(requests):
        await request()
    cpu_us = 1e6 * (time.process_time() - cpu_s) / requests
    wall_us = 1e6 * (time.perf_counter() - wall_s) / requests
    return AdmissionCost(case=case, requests=requests, cpu_us=cpu_us, wall_us=wall_us)


def _limits(store: LimitStore) -> Callable[[], Awaitable[None]]:
    async def request() -> None:
        found = await store.reserve(Demand(caller_id="measured", limits=_LIMITS, tokens=500))
        assert isinstance(found, Reserved)
        await store.settle(found, tokens=100)

    return request


def _roomy_queue() -> Callable[[], Awaitable[None]]:
    queue, caller = FairQueue(Capacity(choices=10)), Caller(id="a", name="a")

    async def request() -> None:
        queue.leave(await queue.enter(caller, kv_tokens=500, choices=1), unused_tokens=400)

    return request


async def _crowded_queue(callers: int, each: int) -> Callable[[], Awaitable[None]]:
    """As one request ends, one that waits goes in and another one comes."""
    queue = FairQueue(Capacity(choices=1), GatewayAdmissionSpec(max_waiting=_MANY // 1000, queue_timeout_s=3600))
    everyone = [Caller(id=str(number), name=str(number)) for number in range(callers)]
    running = await queue.enter(everyone[0], kv_tokens=500, choices=1)
    turns: asyncio.Queue[tuple[Caller, Place]] = asyncio.Queue()

    async def come(caller: Caller) -> None:
        await turns.put((caller, await queue.enter(caller, kv_tokens=500, choices=1)))

    waiting = {asyncio.ensure_future(come(caller)) for caller in everyone for _ in range(each)}
    await asyncio.sleep(0)

    async def request() -> None:
        nonlocal running
        queue.leave(running, unused_tokens=400)
        caller, running = await turns.get()
        task = asyncio.ensure_future(come(caller))
        waiting.add(task)
        task.add_done_callback(waiting.discard)

    return request
