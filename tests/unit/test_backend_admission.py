"""Which of the waiting requests begin: places, KV blocks, and the order."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slipstream.backend.admission import KV_BLOCK_TOKENS, MOST_PASSES, Capacity, Room, Size, WaitingLine, count_waiting
from slipstream.backend.deadlines import Deadline
from slipstream.backend.messages import Cancel, Ending, Generate, Tokens
from slipstream.backend.requests import Penalties, StopRules
from slipstream.backend.tensors import RequestRefusedError
from tests.unit.engine_bench import Bench, FakeReply, a_request

A_BLOCK = KV_BLOCK_TOKENS
CAPACITY = Capacity(max_requests=4, kv_blocks=10, reserves_output=True)


def a_generation(handle: int, *, prompt_tokens: int = A_BLOCK, output_tokens: int = A_BLOCK) -> Generate:
    stop = StopRules(max_new_tokens=output_tokens, min_new_tokens=0, end_id=None, stop_words=(), bad_words=())
    return Generate(handle, [1] * prompt_tokens, None, Penalties(), stop, (), False)


def a_line(*requests: Generate) -> WaitingLine:
    line = WaitingLine()
    for request in requests:
        line.push(request)
    return line


def begin_all(line: WaitingLine, room: Room) -> list[int]:
    begun = []
    while (request := line.next_fitting(room)) is not None:
        begun.append(request.handle)
    return begun


@pytest.mark.parametrize(
    ("prompt", "output", "reserves_output", "blocks"),
    [(1, 1, True, 1), (32, 1, True, 2), (33, 64, True, 4), (33, 64, False, 3), (33, 2, False, 2)],
)
def test_a_request_sets_its_whole_output_aside_or_the_first_block_of_it(
    prompt: int, output: int, reserves_output: bool, blocks: int
) -> None:
    capacity = replace(CAPACITY, reserves_output=reserves_output)
    assert capacity.at_begin(Size(prompt_tokens=prompt, output_tokens=output)) == blocks


def test_what_could_never_run_to_its_end_is_refused_with_the_numbers() -> None:
    assert CAPACITY.refusal(Size(prompt_tokens=A_BLOCK, output_tokens=9 * A_BLOCK)) == ""
    said = replace(CAPACITY, reserves_output=False).refusal(Size(prompt_tokens=A_BLOCK, output_tokens=9 * A_BLOCK + 1))
    assert said.startswith("the prompt has 32 tokens and the output up to 289, which takes 11 KV blocks of 32 tokens")
    assert "the KV cache has 10" in said


def test_requests_begin_while_there_are_places_and_blocks() -> None:
    many = a_line(*(a_generation(handle) for handle in range(6)))
    assert begin_all(many, Room(CAPACITY)) == [0, 1, 2, 3], "four places"
    large = a_line(*(a_generation(handle, output_tokens=3 * A_BLOCK) for handle in range(6)))
    assert begin_all(large, Room(CAPACITY)) == [0, 1], "ten blocks, four each"


def test_what_ends_makes_room_at_once_and_what_is_cancelled_after_a_step() -> None:
    room = Room(replace(CAPACITY, max_requests=1))
    line = a_line(*(a_generation(handle) for handle in range(3)))
    assert begin_all(line, room) == [0]
    room.give_back(0)
    assert begin_all(line, room) == [1]
    room.leave(1)
    assert begin_all(line, room) == []
    room.end_step()
    assert begin_all(line, room) == [2]


def test_a_small_request_passes_a_large_one_but_not_for_ever() -> None:
    room = Room(CAPACITY)
    assert begin_all(a_line(a_generation(0)), room) == [0]
    line = a_line(a_generation(1, output_tokens=9 * A_BLOCK))
    passed = 0
    for handle in range(2, 100):
        line.push(a_generation(handle))
        if begin_all(line, room):
            passed += 1
            room.give_back(handle)
    assert passed == MOST_PASSES
    room.give_back(0)
    assert begin_all(line, room) == [1], "the oldest begins when there is room, and the others wait for it"
    room.give_back(1)
    assert len(begin_all(line, room)) == CAPACITY.max_requests


def test_the_passes_are_counted_anew_for_the_next_in_line() -> None:
    room = Room(replace(CAPACITY, kv_blocks=4))
    line = a_line(*(a_generation(handle, output_tokens=3 * A_BLOCK) for handle in (1, 2)))
    room.take(0, Size(prompt_tokens=1, output_tokens=1))
    for handle in range(3, 3 + MOST_PASSES):
        line.push(a_generation(handle, prompt_tokens=1, output_tokens=1))
        assert begin_all(line, room) == [handle]
        room.give_back(handle)
    assert line.remove(1)
    line.push(a_generation(50, prompt_tokens=1, output_tokens=1))
    assert begin_all(line, room) == [50]


def test_an_output_that_was_not_set_aside_takes_blocks_as_it_grows() -> None:
    room = Room(replace(CAPACITY, kv_blocks=4, reserves_output=False))
    line = a_line(a_generation(1, output_tokens=320), a_generation(2, output_tokens=320))
    assert begin_all(line, room) == [1, 2]
    room.give_back(2)
    for _ in range(2 * A_BLOCK):
        room.grow(1, 1)
    line.push(a_generation(3))
    assert begin_all(line, room) == [], "three blocks are in use"
    line.push(a_generation(4, prompt_tokens=1, output_tokens=1))
    assert begin_all(line, room) == [4]


def test_the_waiting_are_counted_by_places_and_by_blocks() -> None:
    request = a_request()  # 2 + 50 tokens: two blocks
    assert count_waiting([request] * 4, CAPACITY) == 0
    assert count_waiting([request] * 7, CAPACITY) == 3
    assert count_waiting([request] * 4, replace(CAPACITY, kv_blocks=5)) == 2


def test_requests_that_wait_for_blocks_count_for_the_queue() -> None:
    bench = Bench(max_queue_size=1, max_batch_size=8, kv_blocks=2)
    bench.engine.submit(a_request(), FakeReply())  # 2 + 50 tokens: two blocks
    bench.engine.submit(a_request(), FakeReply())
    with pytest.raises(RequestRefusedError, match="1 requests wait for the engine, the limit max_queue_size is 1"):
        bench.engine.submit(a_request(), FakeReply())
    bench.engine.close()


def test_a_request_larger_than_the_cache_never_reaches_the_loop() -> None:
    bench = Bench(kv_blocks=1)
    with pytest.raises(RequestRefusedError, match="takes 2 KV blocks of 32 tokens, the KV cache has 1"):
        bench.engine.submit(a_request(), FakeReply())
    assert not bench.engine.streams()
    bench.engine.close()


@pytest.mark.parametrize(("tokens", "said"), [([], "it was waiting for the engine"), ([10], "1 tokens were generated")])
def test_a_request_whose_time_is_up_is_cancelled_once_and_told_why(tokens: list[int], said: str) -> None:
    bench, reply = Bench(), FakeReply()
    handle = bench.engine.submit(replace(a_request(), deadline=Deadline(at_ns=0, allowed_us=2_500_000)), reply)
    bench.heard()
    if tokens:
        bench.loops[0].say(Tokens(handle, tokens))
        reply.pieces.get(timeout=5)
    for _ in range(2):
        for check in bench.engine.checks():
            check()
    assert bench.heard() == Cancel(handle)
    assert bench.loops[0].heard.empty()
    bench.loops[0].say(Tokens(handle, [], ending=Ending.CANCELLED))
    failure = reply.failures.get(timeout=5)
    assert f"its timeout of 2.5 s, {said}" in failure
    bench.engine.close()


@pytest.mark.parametrize(("asked", "default", "allowed"), [(0, 0, None), (5, 0, 5), (0, 7, 7), (5, 7, 5), (9, 7, 7)])
def test_the_shorter_timeout_counts(asked: int, default: int, allowed: int | None) -> None:
    deadline = Deadline.of(timeout_us=asked, default_us=default)
    assert (deadline.allowed_us if deadline else None) == allowed


def test_a_loop_that_says_nothing_is_killed_and_replaced() -> None:
    bench, reply = Bench(step_timeout_s=0.0), FakeReply()
    bench.engine.submit(a_request(), reply)
    for check in bench.engine.checks():
        check()
    assert "made no step for 0 s and is being restarted" in reply.failures.get(timeout=5)
    bench.engine.submit(a_request(), FakeReply())
    assert not bench.engine.streams()[0].expiry
    bench.engine.close()
    assert len(bench.loops) >= 2


def test_an_idle_loop_may_be_silent() -> None:
    bench = Bench(step_timeout_s=0.0)
    assert bench.engine.checks() == []
    bench.engine.close()
    assert len(bench.loops) == 1
