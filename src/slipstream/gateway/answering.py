"""Runs the generations of one request and writes their answer: whole, or as a stream of events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from slipstream.gateway.errors import ApiError
from slipstream.gateway.generation import Delta, Generation
from slipstream.gateway.openai.answers import Answer, Usage


@dataclass(frozen=True, slots=True)
class _Step:
    """What one of several generations brought."""

    index: int
    delta: Delta


async def whole_answer(generations: Sequence[Generation], answer: Answer) -> AsyncGenerator[bytes]:
    """The JSON of the answer, once every generation has ended; the first failure ends them all."""
    deltas: list[list[Delta]] = [[] for _ in generations]
    async with aclosing(_steps(generations)) as steps:
        async for step in steps:
            deltas[step.index].append(step.delta)
    yield answer.whole(deltas, usage_of(generations))


async def event_stream(
    generations: Sequence[Generation], answer: Answer, *, include_usage: bool
) -> AsyncGenerator[bytes]:
    """Events as the generations bring them. A failure behind the first one is the last one: the answer has begun."""
    opening = b"".join(answer.opening_event(index) for index in range(len(generations)))
    has_begun = False
    try:
        async with aclosing(_steps(generations)) as steps:
            async for step in steps:
                events = opening + answer.delta_event(step.index, step.delta)
                opening = b""
                if events:
                    has_begun = True
                    yield events
    except ApiError as error:
        if not has_begun:
            raise
        yield answer.error_event(error)
        return
    yield answer.closing_events(usage_of(generations), include_usage=include_usage)


def usage_of(generations: Sequence[Generation]) -> Usage:
    """Tokens of all prompts, each counted once, and of all outputs."""
    prompts = {id(generation.wanted.prompt_ids): len(generation.wanted.prompt_ids) for generation in generations}
    return Usage(sum(prompts.values()), sum(generation.output_tokens for generation in generations))


async def _steps(generations: Sequence[Generation]) -> AsyncGenerator[_Step]:
    if len(generations) == 1:  # as nearly always: no task and no queue between the engine and the client
        async with aclosing(generations[0].deltas()) as deltas:
            async for delta in deltas:
                yield _Step(0, delta)
        return
    async with aclosing(_merged(generations)) as merged:
        async for step in merged:
            yield step


async def _merged(generations: Sequence[Generation]) -> AsyncGenerator[_Step]:
    queue: asyncio.Queue[_Step | ApiError | None] = asyncio.Queue(maxsize=4 * len(generations))

    async def feed(index: int, generation: Generation) -> None:
        try:
            async with aclosing(generation.deltas()) as deltas:
                async for delta in deltas:
                    await queue.put(_Step(index, delta))
        except ApiError as error:
            await queue.put(error)
        else:
            await queue.put(None)

    feeders = [asyncio.create_task(feed(index, generation)) for index, generation in enumerate(generations)]
    try:
        running = len(feeders)
        while running:
            step = await queue.get()
            if isinstance(step, ApiError):
                raise step
            if step is None:
                running -= 1
            else:
                yield step
    finally:
        for feeder in feeders:
            feeder.cancel()
        await asyncio.gather(*feeders, return_exceptions=True)
