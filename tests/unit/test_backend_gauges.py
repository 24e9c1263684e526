"""What the metrics of the engine are made from."""

from __future__ import annotations

import time

import pytest

from slipstream.backend.engine import Lengths
from slipstream.backend.figures import gauge_values
from slipstream.backend.latency import Buckets
from slipstream.backend.messages import Ending, Start, Tokens
from slipstream.backend.metric_families import BATCHER, FAMILIES, GENERAL, KV_CACHE, MEMORY, REQUESTS
from tests.unit.engine_bench import Bench, FakeReply, a_request


def test_the_gauges_tell_reading_writing_paused_and_waiting_requests_apart() -> None:
    bench = Bench(max_batch_size=3)
    writing, replies = [bench.engine.submit(a_request(), FakeReply()) for _ in range(2)], [FakeReply(), FakeReply()]
    reading, _waiting = [bench.engine.submit(a_request(), reply) for reply in replies]
    tokens = [Tokens(handle, [10]) for handle in writing]
    bench.loops[0].say(*tokens, kv_cache_usage=0.25, paused_requests=1, begun=(*writing, reading))
    while bench.engine.kv_cache_usage != 0.25 or sum(s.tokens_generated for s in bench.engine.streams()) != 2:
        time.sleep(0.001)
    values = gauge_values(bench.engine, bench.limits, max_kv_blocks=8)
    assert values[REQUESTS] == {"active": 4, "max": 3, "scheduled": 2, "context": 1, "waiting": 2}
    assert values[BATCHER] == {
        "total_context_tokens": 2,
        "generation_requests": 1,
        "micro_batch_id": 0,
        "paused_requests": 1,
    }
    assert values[KV_CACHE] == {"max": 8, "free": 6, "used": 2, "tokens_per": 32, "reused": 0, "fraction": 0.25}
    assert values[MEMORY] == {"cpu": 4096, "gpu": 0, "pinned": 0}
    assert values[GENERAL]["iteration_counter"] == 1
    assert {family: set(family.values) for family in FAMILIES if family.kind == "gauge"} == {
        family: set(of_family) for family, of_family in values.items()
    }
    bench.engine.close()


def test_what_happens_between_two_steps_is_no_iteration() -> None:
    bench, reply = Bench(), FakeReply()
    handle = bench.engine.submit(a_request(), reply)
    bench.loops[0].say(Tokens(handle, [10], ending=Ending.CANCELLED), paused_requests=None)
    assert reply.pieces.get(timeout=5).is_last
    bench.engine.close()
    assert (bench.engine.iterations, bench.engine.last_iteration_us) == (0, 0)


def test_only_answered_requests_have_lengths_and_each_is_told_once() -> None:
    bench, answered, failed = Bench(), FakeReply(), FakeReply()
    one, two = bench.engine.submit(a_request(), answered), bench.engine.submit(a_request(), failed)
    bench.loops[0].say(Tokens(one, [10, 11, 12]))
    bench.loops[0].say(Tokens(two, [], ending=Ending.FAILED, failure="boom"), Tokens(one, [13], ending=Ending.LENGTH))
    while bench.engine.streams():
        time.sleep(0.001)
    bench.engine.close()
    assert bench.engine.take_finished() == [Lengths(input_tokens=2, output_tokens=4)]
    assert bench.engine.take_finished() == []


def test_the_tally_takes_tokens_by_steps_and_requests_by_their_ends() -> None:
    bench, reply, failed = Bench(), FakeReply(), FakeReply()
    handle, other = bench.engine.submit(a_request(), reply), bench.engine.submit(a_request(), failed)
    start = Start(scheduled_ns=time.monotonic_ns(), cached_tokens=1, reused_blocks=1)
    loop = bench.loops[0]
    loop.say(Tokens(handle, [10], start=start))
    loop.say(Tokens(handle, [11, 12]), newly_paused=1)
    loop.say(Tokens(handle, [13], ending=Ending.LENGTH), Tokens(other, [], ending=Ending.FAILED, failure="boom"))
    while bench.engine.streams():
        time.sleep(0.001)
    bench.engine.close()
    tally = bench.engine.tally
    assert (tally.prompt_tokens, tally.cached_tokens, tally.reused_blocks, tally.generated_tokens) == (2, 1, 1, 4)
    assert (tally.preemptions, tally.failures) == (1, 1)
    assert tally.gaps_s.cumulative()[-1] == 2, "tokens of one step count once"
    (first_token_s,) = tally.take_first_tokens_s()
    (ended,) = tally.take_ended()
    assert (ended.ending, ended.prompt_tokens, ended.generated_tokens) == (Ending.LENGTH, 2, 4)
    assert ended.queue_s is not None
    assert ended.prefill_s is not None
    assert ended.decode_s == pytest.approx(tally.gaps_s.sum)
    assert ended.queue_s + ended.prefill_s == pytest.approx(first_token_s)
    assert ended.e2e_s >= first_token_s + tally.gaps_s.sum
    assert (tally.take_first_tokens_s(), tally.take_ended()) == ([], [])


def test_buckets_count_up_to_each_bound() -> None:
    buckets = Buckets((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        buckets.add(value)
    assert (buckets.cumulative(), buckets.sum) == ([2, 3, 4], 12.0)
