"""The generations of one request: how rows and sequences are read, admitted, answered and put into words."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from slipstream.backend.admission import Capacity, Size, size_of
from slipstream.backend.beam_pipeline import OpenVinoBeams
from slipstream.backend.beams import Beam, Beams
from slipstream.backend.bls_call import Part
from slipstream.backend.bls_text import OutputText
from slipstream.backend.bls_texts import OutputTexts
from slipstream.backend.kv_mirror import KvMirror
from slipstream.backend.messages import Ending, Generate, Tokens
from slipstream.backend.parameters import Limits
from slipstream.backend.postprocessing import read_rows
from slipstream.backend.requests import GenerationRequest, ModelProfile, Place
from slipstream.backend.responses import response_tensors
from slipstream.backend.sequences import MOST_GENERATIONS, num_generations, read_requests
from slipstream.backend.stopping import stop_texts
from slipstream.backend.stream import Stream
from slipstream.backend.tensors import RequestRefusedError
from slipstream.backend.trailer import TRAILER_TOKENS, read_trailer
from slipstream.backend.triton import TritonReply
from slipstream.text.tokenizer import Tokenizer
from tests.unit.engine_bench import Bench, FakeReply, a_request
from tests.unit.small_tokenizers import byte_level

OUTPUTS = frozenset(
    {"output_ids", "sequence_length", "output_log_probs", "cum_log_probs", "num_output_tokens", "batch_index"}
    | {"sequence_index"}
)
SEARCH = Beams(width=3, num_returned=2, length_penalty=0.0, ends_early=True)


def two_rows(**changes: Any) -> dict[str, NDArray[Any]]:
    valid = {
        "input_ids": np.array([[5, 6, 7], [8, 9, 0]], np.int32),
        "input_lengths": np.array([3, 2], np.int32),
        "request_output_len": np.array([4, 5], np.int32),
    }
    return {**valid, **{name: np.asarray(value) for name, value in changes.items()}}


def read(*, decoupled: bool = True, **changes: Any) -> tuple[GenerationRequest, ...]:
    limits = Limits(
        max_input_len=7, max_seq_len=10, max_batch_size=2, max_queue_size=0, vocab_size=100, max_beam_width=4
    )
    profile = ModelProfile(limits=limits, decoupled=decoupled, exclude_input_in_output=True, bans_words=True)
    return read_requests(two_rows(**changes), request_id="7", profile=profile)


def read_one(**changes: Any) -> tuple[GenerationRequest, ...]:
    return read(input_ids=[[5, 6, 7]], input_lengths=[3], request_output_len=[4], **changes)


def refusal(**changes: Any) -> str:
    with pytest.raises(RequestRefusedError) as raised:
        read(**changes)
    return str(raised.value)


def test_every_row_has_its_own_prompt_and_settings() -> None:
    first, second = read(end_id=[2, -1])
    assert (first.prompt_ids, second.prompt_ids) == ([5, 6, 7], [8, 9])
    assert (first.stop.max_new_tokens, second.stop.max_new_tokens) == (4, 5)
    assert (first.stop.end_id, second.stop.end_id) == (2, None)
    assert [one.place for one in (first, second)] == [Place(batch_index=0), Place(batch_index=1)]
    assert {one.request_id for one in (first, second)} == {"7"}


def test_sequences_have_the_seeds_that_follow_and_one_alone_has_no_index() -> None:
    drawn = read_one(num_return_sequences=[3], runtime_top_k=[5], seed=[(1 << 64) - 2])
    assert [one.sampling.seed for one in drawn if one.sampling is not None] == [(1 << 64) - 2, (1 << 64) - 1, 0]
    assert [one.place.sequence_index for one in drawn] == [0, 1, 2]
    (alone,) = read_one()
    assert alone.place == Place()


def test_streaming_is_said_by_the_first_row() -> None:
    assert all(one.wishes.streaming for one in read(streaming=[True, False]))


def test_beams_stay_one_generation_of_their_row() -> None:
    first, second = read(beam_width=[3, 1], num_return_sequences=[2, 2])[:2]
    assert first.beams == SEARCH
    assert first.place == Place(batch_index=0, sequence_index=0)
    assert second.beams is None
    assert num_generations(two_rows(beam_width=[3, 1], num_return_sequences=[2, 2]), 2) == 3
    assert len(read(beam_width=[3, 1], num_return_sequences=[2, 2])) == 3


def test_a_search_takes_its_settings_and_needs_no_sampling() -> None:
    (found,) = read_one(beam_width=[4], len_penalty=[0.5], early_stopping=[False], runtime_top_k=[9])
    assert found.beams == Beams(width=4, num_returned=4, length_penalty=0.5, ends_early=False)
    assert found.sampling is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input_lengths": [3, 4]}, "row 1 of the batch: input_lengths is 4"),
        ({"seed": [1]}, "seed has 1 rows, input_ids has 2"),
        ({"num_return_sequences": [MOST_GENERATIONS, 1]}, "limit of a request is 256"),
        ({"num_return_sequences": [1, -1]}, "row 1 of the batch: num_return_sequences is -1"),
        ({"beam_width": [5, 1]}, "beam_width is 5, it must be from 1 to 4"),
        ({"beam_width": [2, 2], "min_tokens": [0, 1]}, "row 1 of the batch: beam_width is 2 and min_tokens is 1"),
        ({"beam_width": [2, 1], "draft_input_ids": [[7], [7]]}, "a draft is of one sequence"),
        ({"beam_width": [2, 1], "bad_words_list": [[[4], [1]], [[4], [1]]]}, "follows no grammar"),
        ({"decoupled": False}, "2 sequences in 2 rows, but the model is not decoupled"),
    ],
)
def test_what_cannot_be_served_refuses_the_request(changes: dict[str, Any], said: str) -> None:
    assert said in refusal(**changes)


def test_the_sequences_of_a_request_are_admitted_together_or_not_at_all() -> None:
    bench = Bench(max_queue_size=2)  # and one runs
    bench.engine.submit(a_request(), FakeReply())
    with pytest.raises(RequestRefusedError, match="0 requests wait for the engine, the limit max_queue_size is 2"):
        bench.engine.submit_all([a_request()] * 3, FakeReply())
    assert len(bench.engine.streams()) == 1
    assert len(bench.engine.submit_all([a_request()] * 2, FakeReply())) == 2
    with pytest.raises(RequestRefusedError, match="asks for 4 sequences, more than run at once and max_queue_size"):
        bench.engine.submit_all([a_request()] * 4, FakeReply())
    bench.engine.close()


def a_search(**wishes: bool) -> GenerationRequest:
    return replace(a_request(**wishes), beams=SEARCH, place=Place(batch_index=4, sequence_index=0))


def test_beams_are_filled_up_and_their_trailers_lie_behind_their_tokens() -> None:
    bench, reply = Bench(), FakeReply()
    wishes = {"streaming": True, "trailer": True, "log_probs": True, "num_output_tokens": True}
    handle = bench.engine.submit(a_search(**wishes), reply)
    message = bench.heard()
    assert isinstance(message, Generate)
    assert message.beams == SEARCH
    (stream,) = bench.engine.streams()
    found = (Beam([10, 11], [-0.5, -0.5], -1.5), Beam([12], [-2.0], -2.0))
    bench.loops[0].say(Tokens(handle, [], ending=Ending.END_ID, beams=found))
    response = response_tensors(stream, reply.pieces.get(timeout=5), OUTPUTS)
    bench.engine.close()
    assert response["sequence_length"].tolist() == [[2, 1]]
    assert response["output_ids"].shape == (1, 2, 2 + TRAILER_TOKENS)
    assert response["output_log_probs"].tolist() == [[[-0.5, -0.5], [-2.0, -1.0]]]
    assert response["cum_log_probs"].tolist() == [[-1.5, -2.0]]
    assert response["num_output_tokens"].tolist() == [[3]]
    assert [response[name].tolist() for name in ("batch_index", "sequence_index")] == [[[4]], [[0]]]
    ends = {"TOKENS_BATCH": response["output_ids"], "SEQUENCE_LENGTH": response["sequence_length"]}
    assert [row.ids for row in read_rows(ends)] == [[10, 11], [12]]
    assert {row.trailer.handle for row in read_rows(ends) if row.trailer is not None} == {handle}


def test_beams_share_the_blocks_that_the_prompt_fills() -> None:
    assert Size(prompt_tokens=70, output_tokens=30).blocks == 4
    assert Size(prompt_tokens=70, output_tokens=30, beams=5).blocks == 2 + 5 * 2
    capacity = Capacity(max_requests=1, kv_blocks=11, reserves_output=False)
    assert capacity.at_begin(Size(prompt_tokens=70, output_tokens=300, beams=2)) == 2 + 2 * 10
    assert "300 in each of 2 beams, which takes 22 KV blocks" in capacity.refusal(
        Size(prompt_tokens=70, output_tokens=300, beams=2)
    )
    assert size_of(a_search()).beams == 3


def test_what_fills_a_shorter_beam_up_is_no_trailer() -> None:
    assert read_trailer([12, -1, -1, -1, -1], 1) is None


class GivenUp:
    """A search for which the pipeline found no room; what it has so far can be read."""

    def get_status(self) -> Any:
        from openvino_genai import GenerationStatus

        return GenerationStatus.IGNORED

    def can_read(self) -> bool:
        return True


def a_mirror() -> KvMirror:
    return KvMirror(blocks=8, max_num_tokens=64, max_num_seqs=4, caching=True, splits=True)


def test_a_search_without_room_fails_though_it_can_be_read() -> None:
    message = Stream(handle=1, request=a_search(), vocabulary=None, interval=1).generate_message
    tokens = OpenVinoBeams(message, GivenUp(), a_mirror()).read()
    assert tokens is not None
    assert tokens.ending is Ending.FAILED
    assert "the KV cache is too small" in tokens.failure


def test_a_search_that_is_cancelled_has_as_many_beams_as_were_asked_for() -> None:
    stream = Stream(handle=1, request=a_search(), vocabulary=None, interval=1)
    stream.push(Tokens(1, [], ending=Ending.CANCELLED))
    piece = stream.take()
    assert piece is not None
    assert response_tensors(stream, piece, OUTPUTS)["output_ids"].shape == (1, 2, 0)


def test_stop_words_of_a_search_must_be_texts_or_single_tokens() -> None:
    tokenizer = byte_level()
    dot, (first, second, third) = tokenizer.encode("."), tokenizer.encode("☃")
    assert stop_texts([tuple(dot)], tokenizer) == (".",)
    assert stop_texts([(first,)], tokenizer) == ()
    assert stop_texts([(first, second, third)], tokenizer) == ("☃",)
    with pytest.raises(RequestRefusedError, match="is no text"):
        stop_texts([(first, second)], tokenizer)
    with pytest.raises(RequestRefusedError, match="is no text"):
        stop_texts([(1, 2)], None)


def output_texts(tokenizer: Tokenizer, *, are_wholes: bool) -> OutputTexts:
    new_text = lambda: OutputText(tokenizer, skip_special_tokens=True, accumulates=False)  # noqa: E731
    return OutputTexts(new_text, are_wholes=are_wholes)


def test_characters_of_one_sequence_are_not_completed_by_another() -> None:
    tokenizer = byte_level()
    first, second, third = tokenizer.encode("☃")
    texts = output_texts(tokenizer, are_wholes=False)
    one, two = Place(sequence_index=0), Place(sequence_index=1)
    parts = [([first], one), ([first, second], two), ([second, third], one), ([third], two), ([first], two)]
    said = [texts.push(Part(ids, False, {}, place=place)) for ids, place in parts]
    assert said == [[""], [""], ["☃"], ["☃"], [""]]
    assert list(texts.rests()) == [(two, "\ufffd")]


def test_every_beam_and_every_whole_output_is_a_text_of_its_own() -> None:
    tokenizer = byte_level()
    a, b = tokenizer.encode("a"), tokenizer.encode("b")
    texts = output_texts(tokenizer, are_wholes=True)
    assert texts.push(Part(a, True, {}, other_beams=[b])) == ["a", "b"]
    assert texts.push(Part([*a, *b], True, {}, other_beams=[b])) == ["ab", "b"]
    assert not list(texts.rests())


class FakeTriton:
    """Triton's side of one request: what was sent, as text, and with which flags."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[tuple[str, int]] = []
        fake: Any = ModuleType("triton_python_backend_utils")
        fake.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
        fake.Tensor = lambda name, tensor: (name, tensor)
        fake.InferenceResponse = lambda tensors=(), error=None: error or "tokens"
        fake.TritonError = lambda message, code: message
        fake.TritonError.INVALID_ARG = fake.TritonError.UNAVAILABLE = 0
        fake.TritonModelException = RuntimeError
        monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)

    def get_response_sender(self) -> FakeTriton:
        return self

    def requested_output_names(self) -> list[str]:
        return ["output_ids", "sequence_length"]

    def send(self, response: str = "nothing", flags: int = 0) -> None:
        self.sent.append((response, flags))


def answers(triton: FakeTriton, *, is_bls_call: bool, is_failing: tuple[bool, ...]) -> list[tuple[str, int]]:
    """What the client gets of generations that fail or answer, one after the other."""
    reply = TritonReply(triton)
    reply.expect(len(is_failing))
    for fails in is_failing:
        stream = Stream(handle=1, request=a_request(is_bls_call=is_bls_call), vocabulary=None, interval=1)
        stream.push(Tokens(1, [10], ending=Ending.LENGTH))
        piece = stream.take()
        assert piece is not None
        if fails:
            reply.fail(stream, "failed")
        else:
            reply.send(stream, piece)
    return triton.sent


def test_the_final_flag_comes_once_and_a_failure_does_not_end_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = answers(FakeTriton(monkeypatch), is_bls_call=False, is_failing=(False, True, False))
    assert sent == [("tokens", 0), ("failed", 0), ("tokens", 1)]
    sent = answers(FakeTriton(monkeypatch), is_bls_call=False, is_failing=(False, True))
    assert sent == [("tokens", 0), ("failed", 1)]


def test_a_bls_call_hears_of_a_failure_by_what_is_missing_unless_it_heard_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Triton loses an error that stands beside other responses of such a call."""
    sent = answers(FakeTriton(monkeypatch), is_bls_call=True, is_failing=(True, False))
    assert sent == [("tokens", 1)]
    sent = answers(FakeTriton(monkeypatch), is_bls_call=True, is_failing=(False, True))
    assert sent == [("tokens", 0), ("nothing", 1)]
    assert answers(FakeTriton(monkeypatch), is_bls_call=True, is_failing=(True, True)) == [("failed", 1)]
