"""From the engine's tokens to responses: stop words, characters kept whole, trailers, and an engine that fails."""

from __future__ import annotations

import time

import numpy as np
import pytest
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers

from slipstream.backend.characters import Characters
from slipstream.backend.contract import SERVED_OUTPUTS
from slipstream.backend.messages import Cancel, Ending, Generate, Tokens
from slipstream.backend.requests import GenerationRequest
from slipstream.backend.responses import response_tensors
from slipstream.backend.stream import Piece, Stream, Vocabulary
from slipstream.backend.tensors import RequestRefusedError
from slipstream.backend.trailer import Trailer, read_stop_handle, read_trailer, stop_ids
from slipstream.backend.words import pack, unpack
from slipstream.text.tokenizer import Tokenizer
from tests.unit.engine_bench import Bench, FakeReply, a_request, with_stop_words
from tests.unit.small_tokenizers import byte_level

ALL_OUTPUTS = frozenset({"output_ids", "sequence_length", "output_log_probs", "cum_log_probs", "num_output_tokens"})


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    """A byte-level vocabulary of the 256 bytes: every character outside ASCII takes several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = FastTokenizer(models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    tokenizer = Tokenizer(fast, bos_id=None, eos_ids=(), pad_id=None)
    return Vocabulary(tokenizer=tokenizer, characters=Characters(tokenizer))


def a_stream(request: GenerationRequest, vocabulary: Vocabulary | None = None, *, interval: int = 1) -> Stream:
    return Stream(handle=7, request=request, vocabulary=vocabulary, interval=interval)


def test_a_piece_never_ends_inside_a_character(vocabulary: Vocabulary) -> None:
    stream = a_stream(a_request(), vocabulary)
    ids = vocabulary.tokenizer.encode("a日b")
    pieces = []
    for token in ids:
        stream.push(Tokens(7, [token]))
        if (piece := stream.take()) is not None:
            pieces.append(vocabulary.tokenizer.decode(piece.ids))
    assert pieces == ["a", "日", "b"]


def test_bytes_that_are_no_character_do_not_hold_a_stream_for_ever(vocabulary: Vocabulary) -> None:
    stream = a_stream(a_request(), vocabulary)
    first_byte = vocabulary.tokenizer.encode("日")[0]
    pieces = []
    for _ in range(40):
        stream.push(Tokens(7, [first_byte]))
        pieces.append(stream.take())
    assert any(piece is not None for piece in pieces)


def test_tokens_that_are_ready_together_travel_together() -> None:
    stream = a_stream(a_request())
    stream.push(Tokens(7, [10]))
    stream.push(Tokens(7, [11]))
    piece = stream.take()
    assert piece is not None
    assert piece.ids == [10, 11]
    assert not piece.is_last


def pieces_of(stream: Stream, count: int) -> list[list[int]]:
    """The tokens of each piece, when a step brings one token and the last of `count` ends the output."""
    pieces = []
    for token in range(count):
        stream.push(Tokens(7, [token], ending=Ending.LENGTH if token == count - 1 else None))
        if (piece := stream.take()) is not None:
            pieces.append(piece.ids)
    return pieces


def test_an_interval_holds_back_all_tokens_but_the_first_and_the_last() -> None:
    assert pieces_of(a_stream(a_request(), interval=4), 11) == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert pieces_of(a_stream(a_request(), interval=64), 3) == [[0], [1, 2]]
    assert pieces_of(a_stream(a_request(), interval=1), 3) == [[0], [1], [2]]


def test_an_interval_does_not_end_a_piece_inside_a_character(vocabulary: Vocabulary) -> None:
    stream = a_stream(a_request(), vocabulary, interval=2)
    pieces = []
    for token in vocabulary.tokenizer.encode("日a日bc"):
        stream.push(Tokens(7, [token]))
        if (piece := stream.take()) is not None:
            pieces.append(vocabulary.tokenizer.decode(piece.ids))
    assert pieces == ["日", "a日", "bc"]


def test_without_streaming_everything_comes_in_one_piece() -> None:
    stream = a_stream(a_request(streaming=False))
    stream.push(Tokens(7, [10]))
    assert stream.take() is None
    stream.push(Tokens(7, [11], ending=Ending.LENGTH))
    piece = stream.take()
    assert piece is not None
    assert piece.ids == [10, 11]
    assert piece.is_last


def test_a_stop_word_ends_the_output_and_stays_in_it() -> None:
    stream = a_stream(with_stop_words(((11, 12),)))
    assert not stream.push(Tokens(7, [10, 11]))
    assert stream.push(Tokens(7, [12, 13]))
    piece = stream.take()
    assert piece is not None
    assert piece.ids == [10, 11, 12]
    assert piece.is_last


def test_a_stop_word_written_with_other_tokens_stops_too(vocabulary: Vocabulary) -> None:
    fast = FastTokenizer.from_str(vocabulary.tokenizer.fast.to_str())
    fast.add_tokens(["END"])
    tokenizer = Tokenizer(fast, bos_id=None, eos_ids=(), pad_id=None)
    both = Vocabulary(tokenizer=tokenizer, characters=Characters(tokenizer))
    whole = fast.token_to_id("END")
    letters = vocabulary.tokenizer.encode("END")
    assert letters != [whole]
    assert a_stream(with_stop_words(((whole,),)), both).push(Tokens(7, letters))


def test_the_trailer_lies_behind_the_tokens_and_only_marked_requests_see_it() -> None:
    piece = Piece([10, 11], [], 4, False, 0.0)
    marked = response_tensors(a_stream(a_request(trailer=True)), piece, ALL_OUTPUTS)
    plain = response_tensors(a_stream(a_request()), piece, ALL_OUTPUTS)
    assert marked["sequence_length"].tolist() == plain["sequence_length"].tolist() == [[2]]
    assert plain["output_ids"].tolist() == [[[10, 11]]]
    ids = marked["output_ids"].reshape(-1).tolist()
    assert ids[:2] == [10, 11]
    assert read_trailer(ids, 2) == Trailer(handle=7, tokens_before=4, is_last=False, only_special_before=False)
    assert read_trailer([10, 11], 2) is None


def test_the_handle_of_a_stop_request_survives_the_way() -> None:
    assert read_stop_handle({"prompt_table_extra_ids": stop_ids(2**40).reshape(1, -1)}) == 2**40
    assert read_stop_handle({}) is None


def test_the_prompt_is_echoed_before_the_output_where_it_is_wanted() -> None:
    stream = a_stream(a_request(streaming=False, echo_prompt=True, num_output_tokens=True))
    response = response_tensors(stream, Piece([10], [], 0, True, 0.0), ALL_OUTPUTS)
    assert response["output_ids"].tolist() == [[[1, 2, 10]]]
    assert response["num_output_tokens"].tolist() == [[3]]


def test_log_probs_of_a_stream_add_up() -> None:
    stream = a_stream(a_request(log_probs=True))
    stream.push(Tokens(7, [10], [-0.5]))
    stream.take()
    stream.push(Tokens(7, [11], [-0.25]))
    piece = stream.take()
    assert piece is not None
    response = response_tensors(stream, piece, ALL_OUTPUTS)
    assert response["output_log_probs"].tolist() == [[[-0.25]]]
    assert response["cum_log_probs"].tolist() == [[-0.75]]


def test_figures_are_given_with_the_last_response_when_they_are_asked_for() -> None:
    piece, last = Piece([10], [], 0, False, 0.0), Piece([11], [], 1, True, 0.0)
    asking, plain = a_stream(a_request(perf_metrics=True)), a_stream(a_request())
    always = {"output_ids", "sequence_length"}
    assert set(response_tensors(asking, piece, SERVED_OUTPUTS)) == always
    assert set(response_tensors(plain, last, SERVED_OUTPUTS)) == always
    figures = response_tensors(asking, last, SERVED_OUTPUTS)
    assert set(figures) - always == {
        "arrival_time_ns",
        "first_scheduled_time_ns",
        "first_token_time_ns",
        "last_token_time_ns",
        "kv_cache_alloc_new_blocks",
        "kv_cache_reused_blocks",
        "kv_cache_alloc_total_blocks",
        "acceptance_rate",
        "total_accepted_draft_tokens",
        "total_draft_tokens",
    }


def test_word_lists_survive_packing() -> None:
    words = ((5,), (6, 7, 8), (9, 10))
    assert unpack({"w": pack(words)[np.newaxis]}, "w") == words
    assert pack([]).shape == (2, 0)


def test_tokens_reach_their_own_client_and_the_end_frees_the_slot() -> None:
    bench, first, second = Bench(), FakeReply(), FakeReply()
    one, two = bench.engine.submit(a_request(), first), bench.engine.submit(a_request(), second)
    bench.loops[0].say(Tokens(one, [10]), Tokens(two, [20], ending=Ending.LENGTH))
    assert first.pieces.get(timeout=5).ids == [10]
    last = second.pieces.get(timeout=5)
    assert last.ids == [20]
    assert last.is_last
    assert [stream.handle for stream in bench.engine.streams()] == [one]
    bench.engine.close()


def test_a_stop_word_tells_the_loop_to_stop_and_later_tokens_are_dropped() -> None:
    bench, reply = Bench(), FakeReply()
    handle = bench.engine.submit(with_stop_words(((11,),)), reply)
    assert isinstance(bench.heard(), Generate)
    bench.loops[0].say(Tokens(handle, [11]))
    assert bench.heard() == Cancel(handle)
    assert reply.pieces.get(timeout=5).is_last
    bench.loops[0].say(Tokens(handle, [12]))
    bench.engine.close()
    assert reply.pieces.empty()


def test_a_cache_that_becomes_free_after_a_stop_word_is_told() -> None:
    bench, reply = Bench(), FakeReply()
    handle = bench.engine.submit(with_stop_words(((11,),)), reply)
    bench.loops[0].say(Tokens(handle, [11]))
    assert reply.pieces.get(timeout=5).is_last
    bench.loops[0].say(kv_cache_usage=0.25)
    while bench.engine.kv_cache_usage != 0.25:
        time.sleep(0.001)  # then the thread is done with the end
    bench.changed.clear()
    bench.loops[0].say(Tokens(handle, [], ending=Ending.CANCELLED), kv_cache_usage=0.0)
    assert bench.changed.wait(5)
    assert bench.engine.kv_cache_usage == 0.0
    bench.engine.close()


def test_an_abandoned_request_is_cancelled_and_a_watched_one_is_not() -> None:
    bench, gone, there = Bench(), FakeReply(), FakeReply()
    handle = bench.engine.submit(a_request(), gone)
    bench.engine.submit(a_request(), there)
    gone.cancelled = True
    for check in bench.engine.checks():
        check()
    messages = [bench.heard() for _ in range(3)]
    assert [message for message in messages if isinstance(message, Cancel)] == [Cancel(handle)]
    bench.engine.close()


def test_only_replies_that_must_ask_the_server_are_asked_one_by_one() -> None:
    bench, near, far = Bench(), FakeReply(asks_server=False), FakeReply()
    handles = [bench.engine.submit(a_request(), near), bench.engine.submit(a_request(), far)]
    near.cancelled = far.cancelled = True
    before, *questions = bench.engine.checks()
    for _ in handles:
        bench.heard()
    before()
    assert bench.heard() == Cancel(handles[0])
    assert len(questions) == 1
    questions[0]()
    assert bench.heard() == Cancel(handles[1])
    bench.engine.close()


def test_a_dead_loop_fails_what_was_in_flight_and_the_next_request_is_served() -> None:
    bench, lost, served = Bench(), FakeReply(), FakeReply()
    bench.engine.submit(a_request(), lost)
    bench.loops[0].die()
    assert "restarted" in lost.failures.get(timeout=5)
    deadline = time.monotonic() + 5
    while len(bench.loops) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    handle = bench.engine.submit(a_request(), served)
    bench.loops[-1].say(Tokens(handle, [10], ending=Ending.LENGTH))
    assert served.pieces.get(timeout=5).ids == [10]
    bench.engine.close()


def test_more_waiting_requests_than_the_limit_are_refused() -> None:
    bench = Bench(max_queue_size=1)
    bench.engine.submit(a_request(), FakeReply())
    bench.engine.submit(a_request(), FakeReply())
    with pytest.raises(RequestRefusedError, match="max_queue_size"):
        bench.engine.submit(a_request(), FakeReply())
    bench.engine.close()


def test_unloading_fails_what_is_in_flight() -> None:
    bench, reply = Bench(), FakeReply()
    bench.engine.submit(a_request(), reply)
    bench.engine.close()
    assert "unloaded" in reply.failures.get(timeout=5)


def test_many_tokens_that_are_bytes_each_do_not_end_a_piece_inside_a_character(vocabulary: Vocabulary) -> None:
    stream = a_stream(a_request(), vocabulary, interval=20)
    stream.push(Tokens(7, vocabulary.tokenizer.encode("a")))
    assert stream.take() is not None
    ids = vocabulary.tokenizer.encode("日" * 20)
    assert len(ids) > 40
    texts = []
    for token in ids:
        stream.push(Tokens(7, [token]))
        if (piece := stream.take()) is not None:
            texts.append(vocabulary.tokenizer.decode(piece.ids))
    assert len(texts) > 1
    assert not any("\ufffd" in text for text in texts)


def test_special_tokens_at_the_beginning_are_no_text_that_went_before() -> None:
    tokenizer = byte_level()
    stream = a_stream(a_request(), Vocabulary(tokenizer=tokenizer, characters=Characters(tokenizer)))
    before = []
    for token in (*tokenizer.eos_ids, *tokenizer.encode("fox")):
        stream.push(Tokens(7, [token]))
        piece = stream.take()
        assert piece is not None
        before.append((piece.tokens_before, piece.only_special_before))
    assert before == [(0, True), (1, True), (2, False)]
