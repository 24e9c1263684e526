"""The step loop over a pipeline that plays the engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from typing import Any

from slipstream.backend.messages import Cancel, Ending, Generate, Ready, Tokens
from slipstream.backend.requests import Penalties, StopRules
from slipstream.backend.step_loop import StepLoop


class FakeGeneration:
    def __init__(self, request: Generate) -> None:
        self.request = request
        self.made = 0
        self.read_so_far = 0
        self.is_cancelled = False

    def read(self) -> Tokens | None:
        if self.read_so_far == self.made:
            return None
        self.read_so_far = self.made
        ending = Ending.LENGTH if self.made == self.request.stop.max_new_tokens else None
        return Tokens(self.request.handle, [self.made], None, ending)

    def cancel(self) -> None:
        self.is_cancelled = True


class FakePipeline:
    """Token n of a generation is the number n; a prompt that begins with 13 breaks the step."""

    def __init__(self) -> None:
        self.generations: list[FakeGeneration] = []

    def add(self, request: Generate) -> FakeGeneration:
        if request.prompt_ids == [99]:
            raise RuntimeError("no such prompt")
        self.generations.append(FakeGeneration(request))
        return self.generations[-1]

    def step(self) -> None:
        for generation in self.generations:
            if generation.request.prompt_ids[0] == 13:
                raise RuntimeError("boom")
            if not generation.is_cancelled and generation.made < generation.request.stop.max_new_tokens:
                generation.made += 1

    def kv_cache_usage(self) -> float:
        return 0.25

    def kv_cache_bytes(self) -> int:
        return 1024


@contextmanager
def a_running_loop() -> Iterator[Any]:
    ours, theirs = Pipe()
    thread = threading.Thread(target=StepLoop(FakePipeline, theirs).run)
    thread.start()
    assert ours.recv() == Ready(1024)
    yield ours
    ours.close()
    thread.join(5)
    assert not thread.is_alive(), "the loop ends when the model closes the channel"


def a_generation(handle: int, *, prompt: int = 1, tokens: int = 3) -> Generate:
    stop = StopRules(max_new_tokens=tokens, min_new_tokens=0, end_id=None, stop_words=(), bad_words=())
    return Generate(handle, [prompt], None, Penalties(), stop, (), False)


def collect(channel: Any, handle: int) -> list[Tokens]:
    """Everything about `handle` up to its ending."""
    got: list[Tokens] = []
    while not got or got[-1].ending is None:
        assert channel.poll(5), f"the loop went silent after {got}"
        got += [tokens for tokens in channel.recv().tokens if tokens.handle == handle]
    return got


def test_a_generation_comes_token_by_token_and_ends() -> None:
    with a_running_loop() as channel:
        channel.send(a_generation(1))
        got = collect(channel, 1)
    assert [tokens.ids for tokens in got] == [[1], [2], [3]]
    assert got[-1].ending is Ending.LENGTH


def test_a_cancelled_generation_gets_its_ending() -> None:
    with a_running_loop() as channel:
        channel.send(a_generation(1, tokens=10**9))
        channel.send(Cancel(1))
        assert collect(channel, 1)[-1].ending is Ending.CANCELLED


def test_cancelling_what_has_ended_is_no_error() -> None:
    with a_running_loop() as channel:
        channel.send(a_generation(1, tokens=1))
        collect(channel, 1)
        channel.send(Cancel(1))
        channel.send(a_generation(2, tokens=1))
        assert collect(channel, 2)[-1].ending is Ending.LENGTH


def test_a_step_that_throws_fails_its_requests_and_the_next_one_is_served() -> None:
    with a_running_loop() as channel:
        channel.send(a_generation(1, prompt=13))
        failed = collect(channel, 1)[-1]
        assert failed.ending is Ending.FAILED
        assert "boom" in failed.failure
        channel.send(a_generation(2))
        assert collect(channel, 2)[-1].ending is Ending.LENGTH


def test_a_request_that_the_pipeline_refuses_fails_alone() -> None:
    with a_running_loop() as channel:
        channel.send(a_generation(1, prompt=99))
        assert collect(channel, 1)[-1].ending is Ending.FAILED
        channel.send(a_generation(2))
        assert collect(channel, 2)[-1].ending is Ending.LENGTH
