"""The pure core: typed requests to wire messages, and back."""

from __future__ import annotations

import json
import struct
from dataclasses import fields
from typing import Any

import pytest
from tritonclient.grpc import service_pb2 as pb

from slipstream.client import Sampling, TextRequest, TokenRequest
from slipstream.client.reply import Reply
from slipstream.client.tensors import first_text
from slipstream.client.wire import checked_address
from slipstream.errors import SlipstreamError
from tests.fakes.triton import CONTRACT

EVERY_SETTING = Sampling(
    temperature=0.5,
    top_k=3,
    top_p=0.9,
    seed=2**64 - 1,
    min_tokens=1,
    repetition_penalty=1.1,
    presence_penalty=0.1,
    frequency_penalty=0.2,
    length_penalty=0.3,
)


def a_text_request(**changes: Any) -> TextRequest:
    return TextRequest(**{"prompt": "Hello", "max_tokens": 8, **changes})


def a_token_request(**changes: Any) -> TokenRequest:
    return TokenRequest(**{"input_ids": (5, 6, 7), "max_tokens": 8, **changes})


def tensors(message: Any) -> dict[str, bytes]:
    return dict(zip([tensor.name for tensor in message.inputs], message.raw_input_contents, strict=True))


@pytest.mark.parametrize(
    ("model", "request_"),
    [
        ("ensemble", a_text_request(sampling=EVERY_SETTING, stop=("a",), bad_words=("b",))),
        ("tensorrt_llm_bls", a_text_request(sampling=EVERY_SETTING, stop=("a",), bad_words=("b",))),
        (
            "tensorrt_llm",
            a_token_request(sampling=EVERY_SETTING, end_id=2, pad_id=0, stop_ids=((1, 2), (3,)), bad_ids=((4,),)),
        ),
    ],
)
def test_every_tensor_is_declared_by_the_contract(model: str, request_: TextRequest | TokenRequest) -> None:
    declared = {tensor["name"]: tensor for tensor in json.loads(CONTRACT.read_text())["models"][model]["inputs"]}
    sent = request_.message().inputs
    assert len(sent) >= 6 + len(fields(Sampling))
    for tensor in sent:
        kind = declared[tensor.name]["data_type"].removeprefix("TYPE_").replace("STRING", "BYTES")
        assert (tensor.name, tensor.datatype) == (tensor.name, kind)
        dims = declared[tensor.name]["dims"]
        assert len(tensor.shape) == 1 + len(dims)
        assert all(wanted in (-1, size) for wanted, size in zip(dims, tensor.shape[1:], strict=True)), tensor.name


def test_settings_that_are_not_given_are_not_sent() -> None:
    assert "temperature" not in tensors(a_text_request().message())
    assert tensors(a_text_request(sampling=Sampling(temperature=0.0)).message())["temperature"] == bytes(4)


def test_the_token_model_has_its_own_names() -> None:
    names = set(tensors(a_token_request(sampling=EVERY_SETTING).message()))
    assert {"runtime_top_k", "runtime_top_p", "len_penalty"} <= names
    assert not {"top_k", "top_p", "length_penalty"} & names


def test_stop_words_of_ids_are_laid_out_flat_with_their_ends() -> None:
    message = a_token_request(stop_ids=((11, 12), (13,))).message()
    raw = tensors(message)["stop_words_list"]
    assert struct.unpack("<6i", raw) == (11, 12, 13, 2, 3, -1)
    assert next(list(t.shape) for t in message.inputs if t.name == "stop_words_list") == [1, 2, 3]


def test_text_is_sent_as_utf8_behind_its_length_in_bytes() -> None:
    assert tensors(a_text_request(prompt="né🙂").message())["text_input"] == b"\x07\0\0\0n\xc3\xa9\xf0\x9f\x99\x82"


def test_every_request_has_an_id_of_its_own_that_fits_a_uint64() -> None:
    ids = [a_text_request().request_id for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(0 < int(id_) < 2**64 for id_ in ids)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_tokens": 2**31}, "max_tokens: 2147483648 does not fit INT32"),
        ({"max_tokens": 1.5}, "max_tokens: 1.5 does not fit INT32"),
        ({"sampling": Sampling(seed=-1)}, "seed: -1 does not fit UINT64"),
        ({"sampling": Sampling(temperature=1e300)}, "temperature: 1e+300 does not fit FP32"),
        ({"prompt": "ab\ud800"}, "text_input: character 2 of the text is not Unicode"),
    ],
)
def test_a_value_that_cannot_be_sent_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SlipstreamError, match="mend") as raised:
        a_text_request(**changes).message()
    assert raised.value.message.startswith(said)


def test_a_token_request_without_tokens_is_refused() -> None:
    with pytest.raises(SlipstreamError, match="input_ids: there are none"):
        a_token_request(input_ids=()).message()


@pytest.mark.parametrize("address", ["http://127.0.0.1:8001", "127.0.0.1", ":8001", "host:port"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(SlipstreamError, match="is not the address of a gRPC server"):
        checked_address(address)


def test_an_ipv6_address_is_taken() -> None:
    assert checked_address("[::1]:8001") == "[::1]:8001"


def test_a_text_tensor_without_texts_is_empty_text() -> None:
    assert first_text(b"") == ""


class Clock:
    """Seconds, as the test sets them."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def a_response(**outputs: bytes) -> Any:
    message = pb.ModelStreamInferResponse()
    for name, raw in outputs.items():
        message.infer_response.outputs.add(name=name)
        message.infer_response.raw_output_contents.append(raw)
    return message.SerializeToString()


def text(value: str, tokens: int) -> Any:
    raw = struct.pack("<I", len(value.encode())) + value.encode()
    return a_response(text_output=raw, num_output_tokens=struct.pack("<i", tokens))


def a_reply(clock: Clock, **changes: Any) -> Reply:
    return Reply(a_text_request(**changes), address="host:1", deadline_s=5.0, connect_timeout_s=1.0, clock=clock)


def test_times_and_speed_count_tokens_and_not_responses() -> None:
    clock = Clock()
    reply = a_reply(clock, max_tokens=100)
    for at_s, tokens in ((100.5, 2), (101.0, 4), (101.5, 6)):
        clock.now_s = at_s
        reply.take(text("x", tokens))
    reply.end()
    completion = reply.completion()
    assert (completion.output_tokens, completion.finish) == (12, "stop")
    assert (completion.ttft_ms, completion.total_ms, completion.tokens_per_s) == (500.0, 1500.0, 10.0)


@pytest.mark.parametrize(("span_ms", "speed"), [(0.3, None), (15.625, None), (125.0, 64.0)])
def test_a_speed_is_told_only_of_tokens_that_came_apart(span_ms: float, speed: float | None) -> None:
    clock = Clock()
    reply = a_reply(clock)
    reply.take(text("x", 1))
    clock.now_s += span_ms / 1000
    reply.take(text("y", 8))
    assert reply.completion().tokens_per_s == speed


def test_a_reply_in_one_response_has_no_decoding_speed() -> None:
    reply = a_reply(Clock())
    reply.take(text("all", 8))
    reply.end()
    assert reply.completion().tokens_per_s is None
    assert reply.completion().finish == "length"


def test_tokens_without_text_are_a_chunk_and_an_empty_response_is_none() -> None:
    reply = a_reply(Clock())
    first = reply.take(text("", 1))
    assert first is not None
    assert first.output_tokens == 1
    assert reply.take(text("", 0)) is None
    assert reply.take(a_response()) is None


def test_an_open_reply_has_no_finish_and_a_closed_one_is_cancelled() -> None:
    reply = a_reply(Clock())
    reply.take(text("x", 1))
    assert reply.completion().finish is None
    reply.cancel()
    assert reply.completion().finish == "cancelled"


def test_closing_after_the_end_changes_nothing() -> None:
    reply = a_reply(Clock())
    reply.end()
    reply.cancel()
    assert reply.completion().finish == "stop"


def test_ids_beyond_the_sequence_length_are_cut() -> None:
    reply = Reply(a_token_request(), address="host:1", deadline_s=None, connect_timeout_s=0.0)
    chunk = reply.take(a_response(output_ids=struct.pack("<4i", 7, 8, 2, 2), sequence_length=struct.pack("<i", 2)))
    assert chunk is not None
    assert (chunk.token_ids, chunk.output_tokens) == ((7, 8), 2)


def test_connecting_is_tried_again_more_slowly_until_the_time_is_up() -> None:
    clock = Clock()
    reply = a_reply(clock)
    assert [reply.next_retry_s("UNAVAILABLE") for _ in range(3)] == [0.05, 0.1, 0.2]
    clock.now_s += 1.0
    assert reply.next_retry_s("UNAVAILABLE") is None


def test_nothing_is_asked_twice_after_a_token() -> None:
    reply = a_reply(Clock())
    reply.take(text("x", 1))
    assert reply.next_retry_s("UNAVAILABLE") is None


def test_other_failures_are_not_retried() -> None:
    assert a_reply(Clock()).next_retry_s("INTERNAL") is None


def test_the_deadline_counts_from_the_start_over_all_attempts() -> None:
    clock = Clock()
    reply = a_reply(clock)
    clock.now_s += 2.0
    assert reply.remaining_s == 3.0
    clock.now_s += 9.0
    assert reply.remaining_s == 0.0
