"""`runtime.stream_interval`: a fixed number of tokens, or one that follows the number of streams."""

from __future__ import annotations

import json

import pytest

from slipstream.backend.messages import Tokens
from slipstream.backend.parameters import ModelConfig
from slipstream.backend.stream_interval import StreamInterval
from tests.unit.engine_bench import Bench, FakeReply, a_request

AUTO = StreamInterval(longest=8, is_adaptive=True)


def configured(**parameters: str) -> ModelConfig:
    values = {name: {"string_value": value} for name, value in parameters.items()}
    return ModelConfig.of(json.dumps({"name": "tensorrt_llm", "parameters": values}))


@pytest.mark.parametrize(("streams", "tokens"), [(1, 1), (8, 1), (9, 2), (16, 2), (32, 4), (64, 8), (1000, 8)])
def test_an_adaptive_interval_lengthens_with_the_streams_up_to_its_limit(streams: int, tokens: int) -> None:
    assert AUTO.tokens(streams) == tokens


@pytest.mark.parametrize("streams", [1, 1000])
def test_a_fixed_interval_stays(streams: int) -> None:
    assert StreamInterval(longest=4).tokens(streams) == 4


def test_the_parameters_say_which() -> None:
    assert StreamInterval.of(configured()) == StreamInterval(longest=1)
    assert StreamInterval.of(configured(slipstream_stream_interval="4")) == StreamInterval(longest=4)
    both = configured(slipstream_stream_interval="8", slipstream_stream_interval_adapts="true")
    assert StreamInterval.of(both) == AUTO


def test_under_load_each_stream_waits_for_more_tokens_and_alone_for_none() -> None:
    bench = Bench(stream_interval=AUTO)
    replies = [FakeReply() for _ in range(16)]
    handles = [bench.engine.submit(a_request(), reply) for reply in replies]
    for token in range(4):  # one token for each stream in each of four steps: the first goes at once, then by two
        bench.step([Tokens(handle, [token]) for handle in handles])
    assert [pieces_of(reply) for reply in replies] == [[[0], [1, 2]]] * 16
    bench.step([Tokens(handles[0], [4])])  # the others have paused: what waited goes out with it
    assert pieces_of(replies[0]) == [[3, 4]]
    bench.step([Tokens(handles[0], [5])])
    assert pieces_of(replies[0]) == [[5]]
    bench.engine.close()


def pieces_of(reply: FakeReply) -> list[list[int]]:
    pieces = []
    while not reply.pieces.empty():
        pieces.append(reply.pieces.get().ids)
    return pieces
