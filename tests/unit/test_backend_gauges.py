"""What the metrics of the engine are made from."""

from __future__ import annotations

import time

from slipstream.backend.engine import Lengths
from slipstream.backend.figures import gauge_values
from slipstream.backend.messages import Ending, Tokens
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
    assert values[KV_CACHE] == {"max": 8, "free": 6, "used": 2, "tokens_per": 32, "fraction": 0.25}
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
