"""Logits of a request: how many may be asked for, which rows of a pass they are, and replies that wait for them."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from slipstream.backend.logits import MOST_BYTES, LogitsWish, Pass, cut, pass_for, read_logits_wish
from slipstream.backend.logits_replies import LogitsQueue, LogitsReply
from slipstream.backend.messages import Ending, Tokens
from slipstream.backend.responses import response_tensors
from slipstream.backend.stream import Piece, Stream
from slipstream.backend.tensors import RequestRefusedError
from slipstream.errors import SlipstreamError
from tests.unit.engine_bench import FakeReply, a_request

BOTH = LogitsWish(context=True, generation=True)
OUTPUTS = frozenset({"output_ids", "sequence_length", "context_logits", "generation_logits"})


class RowsOfIds:
    """A model of which the logits of row n are the n-th id, seven times."""

    def __init__(self) -> None:
        self.failure = ""
        self.has_begun = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def rows(self, wanted: Pass) -> Any:
        self.has_begun.set()
        self.may_go_on.wait(5)
        if self.failure:
            raise SlipstreamError(self.failure, mend="")
        return np.repeat(np.array(wanted.ids[wanted.first_row :], np.float32)[:, np.newaxis], 7, axis=1)

    def kill(self) -> None:
        self.failure = "killed"
        self.may_go_on.set()

    def close(self) -> None:
        pass


class Recorder(FakeReply):
    """Keeps what each response would hold."""

    def __init__(self) -> None:
        super().__init__()
        self.responses: list[dict[str, Any]] = []

    def send(self, stream: Stream, piece: Piece) -> None:
        self.responses.append(response_tensors(stream, piece, OUTPUTS))


def generate(reply: Recorder, wish: LogitsWish, queue: LogitsQueue, output: list[int], *, streaming: bool) -> None:
    """Play the engine: prompt 1, 2 and then `output`, which ends the request."""
    request = replace(a_request(streaming=streaming), logits=wish)
    stream = Stream(handle=7, request=request, vocabulary=None, interval=1)
    waiting = LogitsReply(reply, queue)
    for position, token in enumerate(output):
        stream.push(Tokens(7, [token], ending=Ending.LENGTH if position == len(output) - 1 else None))
        if (piece := stream.take()) is not None:
            waiting.send(stream, piece)


def answered(wish: LogitsWish, output: list[int], *, streaming: bool = False) -> list[dict[str, Any]]:
    queue, reply = LogitsQueue(RowsOfIds()), Recorder()
    generate(reply, wish, queue, output, streaming=streaming)
    done = threading.Event()
    queue.put(lambda rows: done.set())
    assert done.wait(5)
    queue.close()
    assert reply.failures.empty()
    return reply.responses


@pytest.mark.parametrize(
    ("wish", "context", "generation"),
    [
        (BOTH, [1, 2], [2, 8, 9]),
        (LogitsWish(context=True, generation=False), [1, 2], None),
        (LogitsWish(context=False, generation=True), None, [2, 8, 9]),
    ],
)
def test_each_row_is_of_the_token_before_the_one_it_chose(
    wish: LogitsWish, context: list[int] | None, generation: list[int] | None
) -> None:
    (response,) = answered(wish, [8, 9, 10])
    for name, rows, shape in (
        ("context_logits", context, (1, 2, 7)),
        ("generation_logits", generation, (1, 1, 3, 7)),
    ):
        assert (name in response) == (rows is not None)
        if rows is not None:
            assert response[name].shape == shape
            assert response[name].reshape(-1, 7)[:, 0].tolist() == rows


def test_an_output_without_tokens_has_no_logits_and_the_prompt_has_all() -> None:
    wanted = pass_for(BOTH, [1, 2], [])
    found = cut(RowsOfIds().rows(wanted), BOTH, prompt_tokens=2, output_tokens=0).tensors()
    assert found["context_logits"].shape == (1, 2, 7)
    assert found["generation_logits"].shape == (1, 1, 0, 7)


def test_a_stream_is_not_held_up_and_its_last_response_holds_all_logits() -> None:
    responses = answered(BOTH, [8, 9, 10], streaming=True)
    assert [response["output_ids"].item() for response in responses] == [8, 9, 10]
    assert ["generation_logits" in response for response in responses] == [False, False, True]
    assert responses[-1]["generation_logits"].shape == (1, 1, 3, 7)


def test_what_waits_when_the_model_is_unloaded_is_answered_with_an_error() -> None:
    passes = RowsOfIds()
    passes.may_go_on.clear()
    queue, replies = LogitsQueue(passes), [Recorder(), Recorder()]
    for reply in replies:
        generate(reply, BOTH, queue, [8], streaming=False)
    assert passes.has_begun.wait(5)
    queue.close()
    assert [reply.failures.get_nowait() for reply in replies] == ["killed", "the model is being unloaded"]
    assert not replies[0].responses


def test_nothing_is_computed_for_a_client_that_has_gone() -> None:
    passes = RowsOfIds()
    passes.failure = "computed"
    queue, reply = LogitsQueue(passes), Recorder()
    reply.cancelled = True
    generate(reply, BOTH, queue, [8], streaming=False)
    queue.close()
    assert reply.failures.empty()
    assert len(reply.responses) == 1


def test_more_than_the_thread_can_hold_are_refused() -> None:
    passes = RowsOfIds()
    passes.may_go_on.clear()
    queue = LogitsQueue(passes)
    for _ in range(66):
        generate(Recorder(), BOTH, queue, [8], streaming=False)
    assert passes.has_begun.wait(5)
    with pytest.raises(RequestRefusedError, match="requests wait for logits, the limit is 64"):
        queue.admit()
    queue.close()


def test_more_than_a_response_may_hold_is_refused_with_the_limit() -> None:
    wishes = {"return_context_logits": np.array([[True]]), "return_generation_logits": np.array([[True]])}
    most = MOST_BYTES // (50_000 * 4)
    sizes = {"prompt_tokens": most - 100, "vocab_size": 50_000}
    assert read_logits_wish(wishes, max_new_tokens=100, **sizes) == BOTH
    with pytest.raises(RequestRefusedError, match=rf"up to {most + 1} tokens, the limit is {most} \(64 MiB\)"):
        read_logits_wish(wishes, max_new_tokens=101, **sizes)
    only = {"return_generation_logits": np.array([[True]]), "return_context_logits": np.array([[False]])}
    assert read_logits_wish(only, max_new_tokens=101, **sizes) == LogitsWish(context=False, generation=True)
    assert read_logits_wish({}, max_new_tokens=10_000, **sizes) is None
