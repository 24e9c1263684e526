"""Counts in a Redis or Valkey server, shared by all gateways that use it, on its clock."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

from slipstream.errors import SlipstreamError
from slipstream.gateway.limits.values import Demand, LimitName, Refused, Reserved, Standing, StoreFailedError

if TYPE_CHECKING:
    from redis.asyncio import Redis

_LIMITS: tuple[LimitName, ...] = (  # in the order of the script
    "requests_per_minute",
    "tokens_per_minute",
    "tokens_per_day",
    "concurrent_requests",
)
_LEASE_S = 30  # what a process that was killed held is free again so long after
_CONNECTIONS = 32
T = TypeVar("T")


def connect(url: str, *, timeout_s: float) -> Redis:
    """A client of the server at `url`, which is nowhere shown: it may hold a password."""
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as BrokenError

    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            # A connection that the server has closed meanwhile is opened again, once. A command that took too long is
            # not sent again: it may have been carried out.
            retry=Retry(NoBackoff(), 1, supported_errors=(BrokenError,)),
        )
    except ValueError:
        raise SlipstreamError(
            "gateway.limits: the URL of Redis is none", mend="write redis://, rediss:// or unix:// and the address"
        ) from None  # the text of the error may hold the URL
    return Redis(connection_pool=pool)


class RedisStore:
    """A `LimitStore` for any number of processes. `clock` replaces the server's, for tests."""

    def __init__(
        self, client: Redis, *, prefix: str, clock: Callable[[], float] | None = None, lease_s: float = _LEASE_S
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._clock = clock
        self._lease_s = lease_s
        self._leases: dict[str, str] = {}  # to the key where each is kept
        self._renewing: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[Any]] = set()
        self._scripts = {name: client.register_script(_source(name)) for name in ("reserve", "settle", "renew")}

    async def reserve(self, demand: Demand) -> Reserved | Refused:
        """See `LimitStore`. What was counted for a request whose task is cancelled meanwhile is given back."""
        counting = self._spawn(self._reserve(demand))
        try:
            return await asyncio.shield(counting)
        except asyncio.CancelledError:
            counting.add_done_callback(self._undo)
            raise

    async def settle(self, reserved: Reserved, *, tokens: int, requests: int = 1) -> None:
        """See `LimitStore`. It is carried out even if the task is cancelled meanwhile."""
        self._leases.pop(reserved.demand.lease, None)
        await asyncio.shield(self._spawn(self._settle(reserved, tokens, requests)))

    async def close(self) -> None:
        """See `LimitStore`."""
        if self._renewing is not None:
            self._renewing.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._client.aclose()

    async def _reserve(self, demand: Demand) -> Reserved | Refused:
        keys = self._keys(demand.caller_id)
        now = "" if self._clock is None else self._clock()
        limits = ["" if (limit := getattr(demand.limits, name)) is None else limit for name in _LIMITS]
        with _failures():
            found = await self._scripts["reserve"](keys, [now, *limits, demand.tokens, demand.lease, self._lease_s])
        standing = Standing(
            requests=found[4],
            requests_reset_s=found[5] / 1000,
            tokens=found[6],
            tokens_reset_s=found[7] / 1000,
            tokens_today=found[8],
            day_reset_s=found[10] / 1000,
            running=found[9],
        )
        if found[0]:
            return Refused(limit=_LIMITS[found[0] - 1], retry_after_s=found[1] / 1000, standing=standing)
        if demand.limits.concurrent_requests is not None:
            self._leases[demand.lease] = keys[3]
            self._renew_from_now_on()
        return Reserved(demand=demand, store=self, second=found[2], day=found[3], standing=standing)

    async def _settle(self, reserved: Reserved, tokens: int, requests: int) -> None:
        demand = reserved.demand
        given_back = [demand.tokens - tokens, 1 - requests]
        with _failures():
            await self._scripts["settle"](
                self._keys(demand.caller_id), [reserved.second, reserved.day, *given_back, demand.lease]
            )

    def _undo(self, counting: asyncio.Task[Reserved | Refused]) -> None:
        if not counting.cancelled() and counting.exception() is None and isinstance(counting.result(), Reserved):
            reserved = counting.result()
            assert isinstance(reserved, Reserved)
            self._leases.pop(reserved.demand.lease, None)
            self._spawn(self._settle(reserved, 0, 0))

    def _keys(self, caller_id: str) -> list[str]:
        """The braces keep what belongs to one caller on one node of a cluster."""
        caller = f"{self._prefix}:{{{caller_id}}}"
        return [f"{caller}:requests", f"{caller}:tokens", f"{caller}:days", f"{caller}:running"]

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task

    def _renew_from_now_on(self) -> None:
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._renew())

    async def _renew(self) -> None:
        """Hold the places of running requests, which may run longer than a lease lasts."""
        while self._leases:
            await asyncio.sleep(self._lease_s / 3)
            by_key: dict[str, list[str]] = {}
            for lease, key in self._leases.items():
                by_key.setdefault(key, []).append(lease)
            with contextlib.suppress(StoreFailedError), _failures():  # the next request meets the same failure
                for key, leases in by_key.items():
                    await self._scripts["renew"]([key], [self._lease_s, *leases])


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    from redis.exceptions import RedisError

    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreFailedError(type(error).__name__) from error


def _source(name: str) -> str:
    return files("slipstream.gateway.limits").joinpath(f"{name}.lua").read_text()
