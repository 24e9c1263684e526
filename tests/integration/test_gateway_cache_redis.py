"""Answers kept in a real Redis or Valkey server: shared, for a time, and missed by nobody when it is away."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace

import pytest

from slipstream.gateway.caching.opening import open_cache
from slipstream.gateway.caching.stores import RedisValues
from slipstream.gateway.limits.redis_store import connect
from slipstream.gateway.observability.metrics import Metrics
from slipstream.gateway.services import Models, Services
from slipstream.spec import CacheSpec, GatewayLimitsSpec, GatewaySpec
from tests.fakes.gateway import a_model, gateway
from tests.fakes.redis_server import PASSWORD, RedisServer, redis_server
from tests.fakes.triton import FakeTriton, Script
from tests.unit.small_tokenizers import byte_level

SPEC = GatewaySpec(
    cache=CacheSpec(store="redis", ttl_s=60), limits=GatewayLimitsSpec(store="redis", redis_url_env="REDIS_URL")
)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def triton() -> Iterator[FakeTriton]:
    with FakeTriton({"tensorrt_llm": Script(pieces=[byte_level().encode("yes")])}) as triton:
        yield triton


def with_values(
    redis: RedisServer, use: Callable[[RedisValues], Awaitable[None]], *, prefix: str, now: list[float]
) -> None:
    async def run() -> None:
        store = RedisValues(connect(redis.url, timeout_s=5), prefix=prefix, ttl_s=60, clock=lambda: now[0])
        try:
            await use(store)
        finally:
            await store.close()

    asyncio.run(run())


@contextmanager
def a_gateway(redis: RedisServer, triton: FakeTriton) -> Iterator[str]:
    def make() -> Services:
        models = Models([replace(a_model(triton.address), digest="d")])
        metrics, stack = Metrics(), AsyncExitStack()
        return Services(
            spec=SPEC,
            models=models,
            metrics=metrics,
            cache=open_cache(SPEC, {"REDIS_URL": redis.url}, metrics, stack),
        )

    with gateway(make) as url:
        yield url


def ask(base: str, text: str) -> str:
    body = {"model": "small", "temperature": 0, "max_tokens": 5, "messages": [{"role": "user", "content": text}]}
    request = urllib.request.Request(
        f"{base}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.load(answer)["choices"][0]["message"]["content"] == "yes"
        return str(answer.headers["x-cache"])


def test_a_value_is_kept_for_its_time_and_under_the_prefix(redis: RedisServer) -> None:
    async def use(store: RedisValues) -> None:
        store.put("k", b"\x00value")
        while store._writing:
            await asyncio.sleep(0.01)
        assert await store.get(["other", "k"]) == [None, b"\x00value"]
        assert 50_000 < await store._client.pttl("one:k") <= 60_000

    with_values(redis, use, prefix="one", now=[0.0])


def test_what_is_written_last_is_written_before_the_store_is_closed(redis: RedisServer) -> None:
    async def write(store: RedisValues) -> None:
        store.put("k", b"last")

    async def read(store: RedisValues) -> None:
        assert await store.get(["k"]) == [b"last"]

    with_values(redis, write, prefix="two", now=[0.0])
    with_values(redis, read, prefix="two", now=[0.0])


def test_two_gateways_share_their_answers(redis: RedisServer, triton: FakeTriton) -> None:
    with a_gateway(redis, triton) as first, a_gateway(redis, triton) as second:
        assert ask(first, "shared?") == "miss"
        assert "hit" in [ask(second, "shared?") for _ in range(2)]  # it is written behind the answer


def test_answers_go_on_without_the_server_and_are_kept_when_it_is_back(triton: FakeTriton) -> None:
    now = [0.0]
    with redis_server() as own:

        async def use(store: RedisValues) -> None:
            own.stop()
            assert await store.get(["k"]) == [None]
            own.start()
            store.put("k", b"value")  # it is still left alone
            now[0] = 6.0
            assert await store.get(["k"]) == [None]
            store.put("k", b"value")
            while store._writing:
                await asyncio.sleep(0.01)
            assert await store.get(["k"]) == [b"value"]

        with_values(own, use, prefix="three", now=now)
        with a_gateway(own, triton) as url:
            own.stop()
            assert [ask(url, "away?") for _ in range(2)] == ["miss", "miss"]


def test_a_wrong_password_is_a_miss(redis: RedisServer) -> None:
    async def use() -> list[bytes | None]:
        client = connect(redis.url.replace(PASSWORD, "wrong"), timeout_s=5)
        store = RedisValues(client, prefix="four", ttl_s=60)
        try:
            return await store.get(["k"])
        finally:
            await store.close()

    assert asyncio.run(use()) == [None]
