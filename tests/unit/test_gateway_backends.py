"""Several fake Tritons behind one model: some die, hang, refuse or are slow, and the requests do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from slipstream.client import TokenRequest
from slipstream.client.failures import (
    ConnectionLostError,
    DeadlineExceededError,
    OverloadedError,
    RequestRefusedError,
    ServerFaultError,
)
from slipstream.errors import SlipstreamError
from slipstream.gateway.errors import ApiError
from slipstream.gateway.routing import Backends, RoutedStream
from slipstream.gateway.routing.backend import Backend
from slipstream.gateway.routing.health import next_probe_s
from slipstream.spec import RoutingSpec
from tests.fakes.triton import FakeTriton, Script

PIECES = [[1], [2], [3]]
OTHER_PIECES = [[7], [8], [9]]
NOWHERE = "127.0.0.1:1"


def a_spec(**changes: Any) -> RoutingSpec:
    return RoutingSpec(**{"probe_period_s": None, "wait_s": 0.0, **changes})


def a_triton(pieces: list[list[int]] = PIECES, **changes: Any) -> FakeTriton:
    return FakeTriton({"tensorrt_llm": Script(pieces=pieces, **changes)})


def a_request(*ids: int, max_tokens: int = 10) -> TokenRequest:
    return TokenRequest(input_ids=ids or (5, 6), max_tokens=max_tokens)


@contextlib.asynccontextmanager
async def backends_at(*addresses: str, **changes: Any) -> AsyncIterator[Backends]:
    backends = Backends(addresses, a_spec(**changes))
    try:
        yield backends
    finally:
        await backends.close()


def a_stream(backends: Backends, *ids: int, affinity: bytes | None = None) -> RoutedStream:
    return backends.open(a_request(*ids), deadline_s=20, affinity=affinity)


async def tokens(stream: RoutedStream) -> list[int]:
    async with stream:
        return [token async for chunk in stream for token in chunk.token_ids]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds; a test that waits in vain runs into the time limit."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def events_of(backends: Backends) -> list[str]:
    """What happens from now on."""
    events: list[str] = []
    backends.observe = lambda event, backend: events.append(event)
    return events


def states(backends: Backends) -> list[str]:
    return [status.state for status in backends.status()]


def test_requests_without_a_common_beginning_are_spread() -> None:
    async def run() -> None:
        async with backends_at(one.address, other.address) as backends:
            async with a_stream(backends) as first, a_stream(backends) as second:
                await anext(first)
                await anext(second)
                assert {first.backend, second.backend} == {"0", "1"}
                assert [status.streams for status in backends.status()] == [1, 1]
            assert [status.outstanding_tokens for status in backends.status()] == [0, 0]

    with a_triton(hangs=True) as one, a_triton(hangs=True) as other:
        asyncio.run(run())


def test_a_session_stays_on_its_backend() -> None:
    async def run() -> None:
        async with backends_at(one.address, other.address) as backends:
            events = events_of(backends)
            for _ in range(6):
                await tokens(a_stream(backends, affinity=b"session"))
            assert events == ["hash"] + 5 * ["home"]
        assert sorted([len(one.received), len(other.received)]) == [0, 6]

    with a_triton() as one, a_triton() as other:
        asyncio.run(run())


def test_prompts_that_begin_alike_stay_together() -> None:
    async def run() -> None:
        async with backends_at(one.address, other.address) as backends:
            for last in range(6):
                await tokens(a_stream(backends, *range(100), last))
        assert sorted([len(one.received), len(other.received)]) == [0, 6]

    with a_triton() as one, a_triton() as other:
        asyncio.run(run())


def test_work_still_to_be_done_is_what_counts_as_load() -> None:
    async def run() -> None:
        async with backends_at(triton.address) as backends:
            async with a_stream(backends, *range(50)) as stream:
                reading = asyncio.ensure_future(anext(stream))
                await until(lambda: backends.status()[0].outstanding_tokens == 60)
                await reading
                assert backends.status()[0].outstanding_tokens == 9
                await anext(stream)
                assert backends.status()[0].outstanding_tokens == 8
            assert backends.status()[0].outstanding_tokens == 0

    with a_triton(delay_s=0.1) as triton:
        asyncio.run(run())


def test_a_backend_that_is_not_there_is_passed_over_without_an_error() -> None:
    async def run() -> None:
        async with backends_at(NOWHERE, triton.address) as backends:
            events = events_of(backends)
            assert [await tokens(a_stream(backends)) for _ in range(4)] == [[1, 2, 3]] * 4
            assert states(backends) == ["away", "up"]
            assert events.count("retry") == 1

    with a_triton() as triton:
        asyncio.run(run())


@pytest.mark.parametrize(
    "fault",
    [
        {"status": grpc.StatusCode.INTERNAL},
        {"error": "the engine's process died and is being restarted: send the request again"},
        {"error": "Server is stopping, scheduler for model has stopped accepting new inference requests"},
        {"error": "8 requests wait for the engine, the limit max_queue_size is 8: try later"},
    ],
)
def test_a_failure_before_the_first_token_is_tried_elsewhere(fault: dict[str, Any]) -> None:
    async def run() -> None:
        async with backends_at(broken.address, triton.address) as backends:
            assert [await tokens(a_stream(backends)) for _ in range(4)] == [[1, 2, 3]] * 4
        assert broken.received

    with a_triton([], **fault) as broken, a_triton() as triton:
        asyncio.run(run())


def test_a_refusal_stands() -> None:
    async def run() -> None:
        async with backends_at(one.address, other.address) as backends:
            with pytest.raises(RequestRefusedError):
                await tokens(a_stream(backends))
            assert states(backends) == ["up", "up"]
        assert len(one.received) + len(other.received) == 1

    with a_triton([], error="input_ids: too long") as one, a_triton([], error="input_ids: too long") as other:
        asyncio.run(run())


def test_when_all_are_full_the_client_hears_that() -> None:
    async def run() -> None:
        async with backends_at(one.address, other.address) as backends:
            with pytest.raises(OverloadedError):
                await tokens(a_stream(backends))
        assert (len(one.received), len(other.received)) == (1, 1)

    with a_triton([], error="full: try later") as one, a_triton([], error="full: try later") as other:
        asyncio.run(run())


def test_nothing_is_sent_twice_behind_the_first_token() -> None:
    async def run() -> None:
        async with backends_at(one.address, other.address) as backends:
            with pytest.raises(SlipstreamError):
                await tokens(a_stream(backends))
        assert len(one.received) + len(other.received) == 1

    broken = {"status": grpc.StatusCode.INTERNAL}
    with a_triton([[1]], **broken) as one, a_triton([[1]], **broken) as other:
        asyncio.run(run())


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_request_that_backends_break_by_is_not_sent_to_all_of_them(attempts: int) -> None:
    async def run() -> None:
        async with backends_at(*(one.address for one in broken), attempts=attempts) as backends:
            with pytest.raises(SlipstreamError):
                await tokens(a_stream(backends))
        assert sum(len(one.received) for one in broken) == attempts

    with contextlib.ExitStack() as stack:
        broken = [stack.enter_context(a_triton([], status=grpc.StatusCode.UNAVAILABLE)) for _ in range(4)]
        asyncio.run(run())


def test_the_only_backend_is_not_asked_for_ever() -> None:
    async def run() -> None:
        async with backends_at(broken.address, wait_s=10, breaker_failures=100) as backends:
            with pytest.raises(ServerFaultError):
                await tokens(a_stream(backends))
        assert len(broken.received) == 2

    with a_triton([], error="tensorrt_llm_0 is not ready") as broken:
        asyncio.run(run())


def test_short_deadlines_of_clients_take_no_backend_out() -> None:
    async def run() -> None:
        async with backends_at(busy.address, breaker_failures=1) as backends:
            for _ in range(3):
                with pytest.raises(DeadlineExceededError):
                    await tokens(backends.open(a_request(), deadline_s=0.1))
            assert states(backends) == ["up"]

    with a_triton([], hangs=True) as busy:
        asyncio.run(run())


def test_failures_in_a_row_take_a_backend_out() -> None:
    async def run() -> None:
        async with backends_at(broken.address, triton.address, breaker_failures=2, breaker_open_s=60) as backends:
            for _ in range(8):
                await tokens(a_stream(backends))
            assert states(backends) == ["away", "up"]
            assert len(broken.received) == 2

    with a_triton([], status=grpc.StatusCode.INTERNAL) as broken, a_triton() as triton:
        asyncio.run(run())


def test_a_backend_that_comes_back_is_used_again() -> None:
    async def run() -> None:
        async with backends_at(address) as backends:
            with pytest.raises(ConnectionLostError):
                await tokens(a_stream(backends))
            with pytest.raises(ApiError) as refused:
                await tokens(a_stream(backends))
            assert refused.value.status == 503
            assert int(refused.value.headers["retry-after"]) >= 1
            with FakeTriton({"tensorrt_llm": Script(pieces=PIECES)}, port=port):
                await until(lambda: backends.is_up)
                assert await tokens(a_stream(backends)) == [1, 2, 3]

    with a_triton() as gone:
        port, address = gone.port, gone.address
    asyncio.run(run())


def test_a_request_waits_for_the_only_backend_to_come_back() -> None:
    async def run() -> None:
        async with backends_at(address, wait_s=10) as backends:
            asked = asyncio.ensure_future(tokens(a_stream(backends)))
            await until(lambda: not backends.is_up)
            with FakeTriton({"tensorrt_llm": Script(pieces=PIECES)}, port=port):
                assert await asked == [1, 2, 3]

    with a_triton() as gone:
        port, address = gone.port, gone.address
    asyncio.run(run())


def test_a_killed_backend_is_noticed_before_any_request_is_sent_there() -> None:
    async def run() -> None:
        with contextlib.ExitStack() as running:
            addresses = [running.enter_context(a_triton()).address]
            async with backends_at(*addresses, triton.address) as backends:
                events = events_of(backends)
                await tokens(a_stream(backends))
                running.close()
                await until(lambda: states(backends) == ["away", "up"])
                assert await tokens(a_stream(backends)) == [1, 2, 3]
                assert "retry" not in events

    with a_triton() as triton:
        asyncio.run(run())


def test_a_killed_backend_breaks_its_own_streams_alone() -> None:
    async def run() -> None:
        with contextlib.ExitStack() as running:
            victim = running.enter_context(a_triton(hangs=True))
            async with (
                backends_at(victim.address, other.address) as backends,
                a_stream(backends) as broken,
                a_stream(backends) as untouched,
            ):
                await anext(broken)
                await anext(untouched)
                running.close()
                with pytest.raises(ConnectionLostError):
                    await tokens(broken)
                assert await tokens(untouched) == [2, 3]

    with a_triton(delay_s=0.1) as other:
        asyncio.run(run())


def test_a_server_that_stands_still_is_lost_and_its_waiting_request_answered_elsewhere() -> None:
    async def run() -> None:
        async with backends_at(still.address, triton.address, lost_after_s=0.4) as backends:
            still._loop.call_soon_threadsafe(time.sleep, 1.5)
            assert await tokens(a_stream(backends)) == [1, 2, 3]
            assert states(backends) == ["away", "up"]

    with a_triton() as still, a_triton() as triton:
        asyncio.run(run())


def test_a_busy_server_is_not_lost() -> None:
    async def run() -> None:
        async with backends_at(busy.address, lost_after_s=0.8) as backends:
            assert await tokens(a_stream(backends)) == [1]
            assert states(backends) == ["up"]

    with a_triton([[1]], delay_s=1) as busy:
        asyncio.run(run())


def test_a_silent_backend_is_asked_for_a_token_and_goes_when_none_comes() -> None:
    async def run() -> None:
        async with backends_at(dumb.address, triton.address, probe_period_s=0.1, probe_timeout_s=0.3) as backends:
            await until(lambda: states(backends) == ["away", "up"])
            assert [await tokens(a_stream(backends)) for _ in range(3)] == [[1, 2, 3]] * 3

    with a_triton([], hangs=True) as dumb, a_triton() as triton:
        asyncio.run(run())


def test_a_backend_that_streams_is_not_asked() -> None:
    async def run() -> None:
        backend = Backend("0", NOWHERE, a_spec(probe_period_s=60), state="up", changed=lambda: None)
        backend.heard_at = time.monotonic() - 61
        due_s = next_probe_s(backend)
        backend.heard()
        heard_due_s = next_probe_s(backend)
        assert due_s is not None
        assert due_s < 0
        assert heard_due_s is not None
        assert heard_due_s > 0
        await backend.close()

    asyncio.run(run())
