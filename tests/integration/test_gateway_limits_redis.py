"""Limits counted in a real Redis or Valkey server: as exact as in memory, shared by processes, and without it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings

from slipstream.errors import SlipstreamError
from slipstream.gateway.caller import CallerLimits
from slipstream.gateway.limits.memory import MemoryStore
from slipstream.gateway.limits.open_store import open_store
from slipstream.gateway.limits.redis_store import RedisStore, connect
from slipstream.gateway.limits.values import Demand, LimitStore, Refused, Reserved, StoreFailedError
from slipstream.spec import GatewayLimitsSpec
from tests.fakes.redis_server import PASSWORD, RedisServer, redis_server
from tests.fakes.triton import FakeTriton, Script
from tests.integration.gateway_process import gateway_process
from tests.unit.limit_steps import Clock, Step, play, some_limits, some_steps
from tests.unit.small_tokenizers import byte_level

LIMITS = CallerLimits(requests_per_minute=7, tokens_per_minute=1000, concurrent_requests=5, tokens_per_day=10_000)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


_prefixes = iter(f"test{number}" for number in range(10**6))


def with_store(
    redis: RedisServer, use: Callable[[RedisStore], Awaitable[None]], clock: Clock | None = None, lease_s: float = 30
) -> None:
    """Run `use` with a store that nobody has counted in."""

    async def scenario() -> None:
        store = RedisStore(connect(redis.url, timeout_s=5), prefix=next(_prefixes), clock=clock, lease_s=lease_s)
        try:
            await use(store)
        finally:
            await store.close()

    asyncio.run(scenario())


def demand(limits: CallerLimits = LIMITS, *, tokens: int = 1) -> Demand:
    return Demand(caller_id="a", limits=limits, tokens=tokens)


@settings(max_examples=60)
@given(some_limits, some_steps)
def test_it_counts_as_memory_does(redis: RedisServer, limits: CallerLimits, steps: list[Step]) -> None:
    clock, other_clock = Clock(), Clock()

    async def compare(store: RedisStore) -> None:
        in_redis = await play(store, clock, limits, steps)
        in_memory = await play(MemoryStore(other_clock), other_clock, limits, steps)
        assert [summary(one.reserved) for one in in_redis[0]] == [summary(one.reserved) for one in in_memory[0]]
        assert [summary(one[2]) for one in in_redis[1]] == [summary(one[2]) for one in in_memory[1]]

    # Leases end by the server's own clock, which nobody moves: they last longer than the steps.
    with_store(redis, compare, clock, lease_s=10**7)


def summary(found: Reserved | Refused) -> tuple[object, ...]:
    standing = found.standing
    counts = (standing.requests, standing.tokens, standing.tokens_today, standing.running)
    resets = (standing.requests_reset_s, standing.tokens_reset_s, standing.day_reset_s)
    outcome = (found.limit, round(found.retry_after_s, 3)) if isinstance(found, Refused) else (found.second, found.day)
    return (*counts, *(round(reset_s, 3) for reset_s in resets), *outcome)


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        (CallerLimits(requests_per_minute=7), 7),
        (CallerLimits(tokens_per_minute=1000), 8),
        (CallerLimits(tokens_per_day=1000), 8),
        (CallerLimits(concurrent_requests=7), 7),
    ],
)
def test_of_many_that_come_at_once_exactly_as_many_get_in_as_the_limit_says(
    redis: RedisServer, limits: CallerLimits, most: int
) -> None:
    async def all_at_once(store: RedisStore) -> None:
        found = await asyncio.gather(*(store.reserve(demand(limits, tokens=120)) for _ in range(60)))
        assert sum(isinstance(one, Reserved) for one in found) == most

    with_store(redis, all_at_once)


def test_a_request_that_is_given_up_while_it_is_counted_leaves_nothing_behind(redis: RedisServer) -> None:
    async def give_up(store: RedisStore) -> None:
        for _ in range(20):
            task = asyncio.create_task(store.reserve(demand(tokens=1000)))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        while store._under_way:
            await asyncio.gather(*store._under_way)
        found = await store.reserve(demand(tokens=1000))
        assert isinstance(found, Reserved)
        assert (found.standing.requests, found.standing.running, found.standing.tokens_today) == (1, 1, 1000)

    with_store(redis, give_up)


def test_what_a_killed_process_held_is_free_again_and_what_runs_is_kept(redis: RedisServer) -> None:
    limits = CallerLimits(concurrent_requests=2)

    async def use(store: RedisStore) -> None:
        killed = await store.reserve(demand(limits))
        assert isinstance(killed, Reserved)
        store._leases.clear()  # nobody renews it
        assert isinstance(await store.reserve(demand(limits)), Reserved)
        assert isinstance(await store.reserve(demand(limits)), Refused)
        await asyncio.sleep(1.2)
        assert isinstance(await store.reserve(demand(limits)), Reserved)
        assert isinstance(await store.reserve(demand(limits)), Refused)

    with_store(redis, use, lease_s=0.9)


def test_keys_of_callers_go_away_by_themselves(redis: RedisServer) -> None:
    async def use(store: RedisStore) -> None:
        await store.reserve(demand())
        client = store._client
        keys = [key async for key in client.scan_iter(match=f"{store._prefix}:*")]
        assert len(keys) == 4
        assert all([0 < await client.ttl(key) <= 86_460 for key in keys])

    with_store(redis, use)


def test_two_gateways_let_in_together_exactly_what_the_limit_says(redis: RedisServer, tmp_path: Path) -> None:
    url_file = tmp_path / "redis-url"
    url_file.write_text(redis.url)
    # Slow is not away: on a busy machine each gateway would go on to count by itself.
    limits = {"store": "redis", "redis_url_file": str(url_file), "requests_per_minute": 17, "store_timeout_s": 10.0}
    pieces = [[token] for token in byte_level().encode("The quick brown fox")]
    with (
        FakeTriton({"tensorrt_llm": Script(pieces=pieces, delay_s=0.01)}) as triton,
        gateway_process(tmp_path / "one", triton.address, limits=limits) as one,
        gateway_process(tmp_path / "two", triton.address, limits=limits) as two,
    ):
        with ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(lambda gateway: gateway.complete(), [one, two] * 30))
        assert Counter(statuses) == {200: 17, 429: 43}
        assert len(triton.received) == 17
        assert not one.reload().message
        assert one.complete() == 429
        assert PASSWORD not in one.path.read_text() + "".join(one.said)


def test_a_redis_that_goes_away_stops_nobody_or_everybody_as_the_settings_say(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    failures: list[str] = []
    with redis_server() as server:

        async def scenario(policy: str) -> None:
            spec = GatewayLimitsSpec.model_validate(
                {"store": "redis", "redis_url_env": "URL", "on_store_failure": policy, "store_timeout_s": 2.0}
            )
            store = open_store(spec, {"URL": server.url}, failures.append)
            before = await store.reserve(demand())
            assert isinstance(before, Reserved)
            server.stop()
            await without_redis(store, policy)
            await store.settle(before, tokens=0)
            server.start()
            await asyncio.sleep(1.1)
            back = await store.reserve(demand())
            assert isinstance(back, Reserved)
            assert isinstance(back.store, RedisStore)
            await store.close()

        for policy in ("allow", "refuse"):
            asyncio.run(scenario(policy))
    assert failures == ["ConnectionError"] * 2
    assert PASSWORD not in caplog.text


async def without_redis(store: LimitStore, policy: str) -> None:
    if policy == "allow":
        found = [await store.reserve(demand()) for _ in range(20)]
        assert sum(isinstance(one, Reserved) for one in found) == LIMITS.concurrent_requests
    else:
        with pytest.raises(StoreFailedError):
            await store.reserve(demand())


def test_the_url_comes_from_a_file_and_is_never_shown(redis: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "redis-url"
    spec = GatewayLimitsSpec(store="redis", redis_url_file=str(file))
    with pytest.raises(SlipstreamError, match="redis-url: cannot be read"):
        open_store(spec, {})
    file.write_text(f"postgres://user:{PASSWORD}@host\n")
    with pytest.raises(SlipstreamError) as wrong:
        open_store(spec, {})
    assert PASSWORD not in f"{wrong.value} {wrong.value.mend} {wrong.value.__cause__}"
    file.write_text(f"{redis.url}\n")

    async def count() -> None:
        store = open_store(spec, {})
        assert isinstance(await store.reserve(demand()), Reserved)
        await store.close()

    asyncio.run(count())
