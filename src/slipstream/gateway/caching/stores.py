"""Where values are kept for a time, in this process or in Redis; losing one costs time, never an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from cachetools import TTLCache

if TYPE_CHECKING:
    from redis.asyncio import Redis

_ENTRY_BYTES = 400  # a key and what Python needs around it
_PAUSE_S = 5.0


class ValueStore(Protocol):
    """Values by key, each for a time."""

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of `keys` in their order."""

    def put(self, key: str, value: bytes) -> None:
        """Keep a value; at once, or soon."""

    @property
    def held_bytes(self) -> int:
        """Memory that it takes in this process."""

    async def close(self) -> None:
        """Finish what is under way."""


class MemoryValues:
    """Values in this process; of too many the one that was not used for longest goes first."""

    def __init__(self, *, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._values: TTLCache[str, bytes] = TTLCache(max_bytes, ttl_s, timer=clock, getsizeof=_size)

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """See `ValueStore`."""
        return [self._values.get(key) for key in keys]

    def put(self, key: str, value: bytes) -> None:
        """See `ValueStore`; what is larger than the whole store is not kept."""
        if _size(value) <= self._values.maxsize:
            self._values[key] = bytes(memoryview(value))  # orjson's own takes 8 KiB, however short it is

    @property
    def held_bytes(self) -> int:
        """See `ValueStore`."""
        self._values.expire()
        return int(self._values.currsize)

    async def close(self) -> None:
        """See `ValueStore`."""


class RedisValues:
    """Values in a Redis or Valkey server.

    While the server fails, everything is a miss; it is left alone for some seconds, lest every request wait for it.
    """

    def __init__(
        self, client: Redis, *, prefix: str, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._ttl_ms = max(1, int(1000 * ttl_s))
        self._clock = clock
        self._ask_from = 0.0
        self._writing: set[asyncio.Task[None]] = set()

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """See `ValueStore`."""
        if self._clock() < self._ask_from:
            return [None] * len(keys)
        try:
            found = cast("list[bytes | None]", await self._client.mget([self._name(key) for key in keys]))
        except _failures():
            self._ask_from = self._clock() + _PAUSE_S
            return [None] * len(keys)
        return found

    def put(self, key: str, value: bytes) -> None:
        """See `ValueStore`; the answer that is kept does not wait for it."""
        if self._clock() >= self._ask_from:
            task = asyncio.create_task(self._put(key, value))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    @property
    def held_bytes(self) -> int:
        """See `ValueStore`: the server's memory is the server's."""
        return 0

    async def close(self) -> None:
        """See `ValueStore`."""
        await asyncio.gather(*self._writing)
        await self._client.aclose()

    async def _put(self, key: str, value: bytes) -> None:
        try:
            await self._client.set(self._name(key), value, px=self._ttl_ms)
        except _failures():
            self._ask_from = self._clock() + _PAUSE_S

    def _name(self, key: str) -> str:
        return f"{self._prefix}:{key}"


def _size(value: bytes) -> int:
    return len(value) + _ENTRY_BYTES


def _failures() -> tuple[type[Exception], ...]:
    from redis.exceptions import RedisError

    return RedisError, OSError, TimeoutError
