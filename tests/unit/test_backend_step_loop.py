"""The step loop over a pipeline that plays the engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from typing import Any

from slipstream.backend.admission import Capacity
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
        if self.request.prompt_ids == [8]:
            self.is_cancelled = True
            return Tokens(self.request.handle, [], None, Ending.FAILED, "not finite")
        ending = Ending.LENGTH if self.made == self.request.stop.max_new_tokens else None
        return Tokens(self.request.handle, [self.made], None, ending)

    def cancel(self) -> None:
        self.is_cancelled = True


class FakePipeline:
    """Token n of a generation is the number n; a prompt that begins with 13 breaks the step.

    A prompt n > 99 is read in the n - 99 steps before its first token; prompt 7 gets one token and then no more;
    prompt 8 gives a failure instead.
    """

    def __init__(self) -> None:
        self.generations: list[FakeGeneration] = []
        self.steps = 0

    def add(self, request: Generate) -> FakeGeneration:
        if request.prompt_ids == [99]:
            raise RuntimeError("no such prompt")
        self.generations.append(FakeGeneration(request))
        return self.generations[-1]

    def step(self) -> None:
        self.steps += 1
        for generation in self.generations:
            if generation.request.prompt_ids[0] == 13:
                raise RuntimeError("boom")
            if self._is_served(generation):
                generation.made += 1

    def _is_served(self, generation: FakeGeneration) -> bool:
        (prompt,) = generation.request.prompt_ids
        if (prompt == 7 and generation.made) or self.steps <= prompt - 99:
            return False
        return not generation.is_cancelled and generation.made < generation.request.stop.max_new_tokens

    def kv_cache_usage(self) -> float:
        return 0.25 if self.steps > 1 else 0.125

    def kv_cache_bytes(self) -> int:
        return 1024

    def speculating(self) -> int:
        return 0


@contextmanager
def a_running_loop(*, max_batch_size: int = 8, kv_blocks: int = 10**9, reserves_output: bool = True) -> Iterator[Any]:
    ours, theirs = Pipe()
    capacity = Capacity(max_requests=max_batch_size, kv_blocks=kv_blocks, reserves_output=reserves_output)
    thread = threading.Thread(target=StepLoop(FakePipeline, theirs, capacity=capacity).run)
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


def collect_all(channel: Any, *handles: int) -> list[Tokens]:
    """Everything in the order it came, up to the last of the endings."""
    got: list[Tokens] = []
    while not set(handles) <= {tokens.handle for tokens in got if tokens.ending is not None}:
        assert channel.poll(5), f"the loop went silent after {got}"
        got += channel.recv().tokens
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


def test_a_request_over_the_limit_waits_until_one_before_it_has_ended() -> None:
    with a_running_loop(max_batch_size=1) as channel:
        for handle in (1, 2, 3):
            channel.send(a_generation(handle))
        got = collect_all(channel, 1, 2, 3)
    assert [tokens.handle for tokens in got] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_as_many_as_the_limit_run_together() -> None:
    with a_running_loop(max_batch_size=2) as channel:
        channel.send(a_generation(1, tokens=10**9))
        channel.send(a_generation(2))
        assert collect(channel, 2)[-1].ending is Ending.LENGTH


def test_a_waiting_request_is_cancelled_at_once_and_never_begins() -> None:
    with a_running_loop(max_batch_size=1) as channel:
        channel.send(a_generation(1, tokens=10**9))
        channel.send(a_generation(2))
        channel.send(a_generation(3))
        channel.send(Cancel(2))
        assert collect(channel, 2) == [Tokens(2, [], None, Ending.CANCELLED)]
        channel.send(Cancel(1))
        assert [tokens.handle for tokens in collect_all(channel, 3) if tokens.handle != 1] == [3, 3, 3]


def test_a_step_that_throws_leaves_the_waiting_requests_to_the_next_pipeline() -> None:
    with a_running_loop(max_batch_size=1) as channel:
        channel.send(a_generation(1, prompt=13))
        channel.send(a_generation(2))
        got = collect_all(channel, 1, 2)
    assert [tokens.ending for tokens in got if tokens.ending is not None] == [Ending.FAILED, Ending.LENGTH]


def test_a_refused_request_makes_room_for_the_next() -> None:
    with a_running_loop(max_batch_size=1) as channel:
        channel.send(a_generation(1, prompt=99))
        channel.send(a_generation(2))
        assert collect(channel, 2)[-1].ending is Ending.LENGTH


def test_a_generation_that_gets_no_token_is_told_as_paused() -> None:
    with a_running_loop() as channel:
        channel.send(a_generation(1, prompt=7))
        channel.send(a_generation(2, tokens=10**9))
        assert channel.recv().paused_requests == 0, "its first token has come"
        assert channel.recv().paused_requests == 1
        channel.send(Cancel(1))
        while not [tokens for tokens in channel.recv().tokens if tokens.ending is Ending.CANCELLED]:
            pass
        assert channel.recv().paused_requests == 0, "it is gone"


def test_a_step_that_only_fills_the_cache_is_told_once() -> None:
    with a_running_loop() as channel:
        channel.send(a_generation(1, prompt=102, tokens=1))
        steps = [channel.recv() for _ in range(3)]
    assert [(len(step.tokens), step.kv_cache_usage) for step in steps] == [(0, 0.125), (0, 0.25), (1, 0.0)]


def test_a_request_that_gets_no_more_tokens_is_counted_as_paused_once() -> None:
    with a_running_loop() as channel:
        channel.send(a_generation(1, prompt=7, tokens=9))
        channel.send(a_generation(2, tokens=20))
        steps = []
        while not any(tokens.ending for step in steps for tokens in step.tokens):
            assert channel.poll(5)
            steps.append(channel.recv())
    assert max(step.paused_requests for step in steps) == 1
    assert sum(step.newly_paused for step in steps) == 1
    assert [step.ended_ns for step in steps] == sorted({step.ended_ns for step in steps})


def test_a_request_waits_until_its_kv_blocks_are_free() -> None:
    with a_running_loop(kv_blocks=2) as channel:
        channel.send(a_generation(1, tokens=60))
        channel.send(a_generation(2, tokens=60))
        channel.send(a_generation(3, prompt=99))
        got = collect_all(channel, 1, 2, 3)
    assert [tokens.handle for tokens in got if tokens.ids] == [1] * 60 + [2] * 60
    assert {tokens.handle: tokens.ending for tokens in got}[3] is Ending.FAILED, "one that was refused holds no blocks"


def test_the_blocks_of_a_cancelled_request_go_to_the_next_one() -> None:
    with a_running_loop(kv_blocks=10) as channel:
        channel.send(a_generation(1, tokens=319))
        channel.send(Cancel(1))
        channel.send(a_generation(2, tokens=310))
        assert collect_all(channel, 1, 2)[-1].ending is Ending.LENGTH


def test_a_request_is_told_once_when_it_begins() -> None:
    with a_running_loop(max_batch_size=1) as channel:
        channel.send(a_generation(1, prompt=105, tokens=1))
        channel.send(a_generation(2, tokens=1))
        begun: list[int] = []
        endings = 0
        while endings < 2:
            step = channel.recv()
            begun += [each.handle for each in step.begun]
            endings += sum(tokens.ending is not None for tokens in step.tokens)
    assert begun == [1, 2]


def test_a_generation_that_fails_alone_makes_room_for_the_next() -> None:
    with a_running_loop(max_batch_size=1) as channel:
        channel.send(a_generation(1, prompt=8))
        channel.send(a_generation(2))
        got = collect_all(channel, 1, 2)
    assert [(tokens.handle, tokens.ending) for tokens in got if tokens.ending is not None] == [
        (1, Ending.FAILED),
        (2, Ending.LENGTH),
    ]
