"""Backends that come and go while requests run: no request notices."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from slipstream.errors import SlipstreamError
from slipstream.gateway.routing import Backends, reloaded
from tests.unit.test_gateway_backends import (
    NOWHERE,
    OTHER_PIECES,
    a_spec,
    a_stream,
    a_triton,
    backends_at,
    states,
    tokens,
    until,
)


def test_new_backends_take_over_and_the_old_ones_finish_what_they_have() -> None:
    async def run() -> None:
        async with backends_at(old.address) as backends, a_stream(backends) as running:
            await anext(running)
            await backends.replace([new.address])
            assert states(backends) == ["up", "draining"]
            assert await tokens(a_stream(backends)) == [7, 8, 9]
            assert await tokens(running) == [2, 3]
            await backends.drained()
            assert states(backends) == ["up"]

    with a_triton(delay_s=0.1) as old, a_triton(OTHER_PIECES) as new:
        asyncio.run(run())


def test_a_swap_under_load_fails_no_request() -> None:
    async def run() -> None:
        async with backends_at(addresses[0]) as backends:
            answers: list[list[int]] = []
            is_over = asyncio.Event()

            async def ask() -> None:
                while not is_over.is_set():
                    answers.append(await tokens(a_stream(backends)))

            askers = [asyncio.create_task(ask()) for _ in range(8)]
            for address in addresses[1:]:
                seen = len(answers)
                await until(lambda: len(answers) > seen + 20)  # noqa: B023 - awaited before `seen` changes
                await backends.replace([address])
            is_over.set()
            await asyncio.gather(*askers)
            await backends.drained()
        assert {tuple(answer) for answer in answers} == {(1, 2, 3)}

    with a_triton(delay_s=0.005) as one, a_triton(delay_s=0.005) as two, a_triton(delay_s=0.005) as three:
        addresses = [one.address, two.address, three.address]
        asyncio.run(run())
        assert all(len(triton.received) > 8 for triton in (one, two))


def test_a_backend_without_a_token_does_not_replace_one_that_works() -> None:
    async def run() -> None:
        async with backends_at(old.address, join_timeout_s=0.3) as backends:
            with pytest.raises(SlipstreamError, match="none of the 2 new backends"):
                await backends.replace([NOWHERE, dumb.address])
            assert backends.addresses == [old.address]
            assert await tokens(a_stream(backends)) == [1, 2, 3]

    with a_triton() as old, a_triton([], hangs=True) as dumb:
        asyncio.run(run())


def test_an_answer_that_outlives_the_drain_is_ended() -> None:
    async def run() -> None:
        async with backends_at(old.address, drain_timeout_s=0.2) as backends, a_stream(backends) as running:
            await anext(running)
            await backends.replace([new.address])
            with pytest.raises(SlipstreamError):
                await tokens(running)
            await backends.drained()

    with a_triton(hangs=True) as old, a_triton() as new:
        asyncio.run(run())


async def swap(before: Backends, addresses: list[str], stack: AsyncExitStack) -> Backends:
    backends = await reloaded(before, addresses, before.spec, stack)
    backends.keep(addresses)
    return backends


def test_a_reload_goes_on_with_the_same_backends_until_their_last_configuration_ends() -> None:
    async def run() -> None:
        first, second = AsyncExitStack(), AsyncExitStack()
        before = await reloaded(None, [one.address], a_spec(), first)
        after = await swap(before, [one.address, two.address], second)
        assert after is before
        await first.aclose()
        assert states(after) == ["up", "up"]
        await second.aclose()
        assert states(after) == []

    with a_triton() as one, a_triton() as two:
        asyncio.run(run())


def test_a_reload_that_fails_leaves_the_backends_as_they_were() -> None:
    async def run() -> None:
        async with AsyncExitStack() as first:
            before = await reloaded(None, [one.address], a_spec(), first)
            async with AsyncExitStack() as second:
                await reloaded(before, [two.address], a_spec(), second)
                assert before.addresses == [one.address, two.address]
            assert before.addresses == [one.address]

    with a_triton() as one, a_triton() as two:
        asyncio.run(run())


def test_other_routing_settings_are_for_new_requests() -> None:
    async def run() -> None:
        async with AsyncExitStack() as first, AsyncExitStack() as second:
            before = await reloaded(None, [one.address], a_spec(), first)
            after = await reloaded(before, [one.address], a_spec(attempts=1), second)
            assert (before.spec.attempts, after.spec.attempts) == (3, 1)
            assert await tokens(a_stream(after)) == [1, 2, 3]

    with a_triton() as one:
        asyncio.run(run())
