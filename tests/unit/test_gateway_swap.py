"""Backends that come and go while requests run: no request notices."""

from __future__ import annotations

import asyncio

import pytest

from slipstream.errors import SlipstreamError
from tests.unit.test_gateway_backends import (
    NOWHERE,
    OTHER_PIECES,
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
