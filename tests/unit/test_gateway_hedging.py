"""A second backend is asked when the first is slow: one of them answers, and nothing is left of the other."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from tests.unit.test_gateway_backends import OTHER_PIECES, a_stream, a_triton, backends_at, events_of, tokens, until


def test_a_slow_backend_is_hedged_and_the_loser_cancelled() -> None:
    async def run() -> None:
        async with backends_at(slow.address, triton.address, hedge_after_s=0.1) as backends:
            events = events_of(backends)
            async with a_stream(backends) as stream:
                assert await tokens(stream) == [7, 8, 9]
            assert stream.backend == "1"
            assert events.count("hedge") == 1
            assert len(await asyncio.to_thread(slow.wait_until_cancelled)) == 1
            assert [status.outstanding_tokens for status in backends.status()] == [0, 0]

    with a_triton([], hangs=True) as slow, a_triton(OTHER_PIECES) as triton:
        asyncio.run(run())


def test_a_hedge_that_fails_leaves_the_first_one_its_time() -> None:
    async def run() -> None:
        async with backends_at(slow.address, broken.address, hedge_after_s=0.1) as backends:
            assert await tokens(a_stream(backends)) == [1, 2, 3]
        assert broken.received

    with a_triton(delay_s=0.3) as slow, a_triton([], status=grpc.StatusCode.INTERNAL) as broken:
        asyncio.run(run())


def test_a_client_that_leaves_ends_its_request_wherever_it_is() -> None:
    async def run() -> None:
        async with backends_at(one.address, other.address, hedge_after_s=0.1) as backends:
            asked = asyncio.ensure_future(tokens(a_stream(backends)))
            await until(lambda: len(one.received) + len(other.received) == 2)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            assert await asyncio.to_thread(one.wait_until_cancelled)
            assert await asyncio.to_thread(other.wait_until_cancelled)
            assert [status.streams for status in backends.status()] == [0, 0]

    with a_triton([], hangs=True) as one, a_triton([], hangs=True) as other:
        asyncio.run(run())
