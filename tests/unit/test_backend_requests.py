"""Tensors to typed requests: what is served, what is refused, and in which words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from slipstream.backend.contract import ABSENT_OUTPUTS, ACCEPTED, REFUSED, SERVED, SERVED_OUTPUTS
from slipstream.backend.guide import Guide
from slipstream.backend.parameters import Limits
from slipstream.backend.requests import GenerationRequest, ModelProfile, read_request
from slipstream.backend.tensors import RequestRefusedError
from slipstream.backend.words import pack
from slipstream.repository.contract import contract


def a_profile(*, decoupled: bool = True, exclude: bool = True, bans_words: bool = True) -> ModelProfile:
    limits = Limits(max_input_len=7, max_seq_len=10, max_batch_size=2, max_queue_size=0, vocab_size=100)
    return ModelProfile(limits=limits, decoupled=decoupled, exclude_input_in_output=exclude, bans_words=bans_words)


def tensors(**changes: Any) -> dict[str, NDArray[Any]]:
    valid: dict[str, NDArray[Any]] = {
        "input_ids": np.array([[5, 6, 7]], np.int32),
        "input_lengths": np.array([3], np.int32),
        "request_output_len": np.array([4], np.int32),
        "end_id": np.array([2], np.int32),
    }
    return {**valid, **{name: np.asarray(value) for name, value in changes.items()}}


def read(profile: ModelProfile | None = None, **changes: Any) -> GenerationRequest:
    return read_request(tensors(**changes), request_id="", profile=profile or a_profile())


def refusal(profile: ModelProfile | None = None, **changes: Any) -> str:
    with pytest.raises(RequestRefusedError) as raised:
        read(profile, **changes)
    return str(raised.value)


def test_decoding_is_greedy_unless_top_k_or_top_p_ask_for_more() -> None:
    assert read().sampling is None
    assert read(temperature=[1.3]).sampling is None
    assert read(runtime_top_k=[1], runtime_top_p=[0.9]).sampling is None
    assert read(runtime_top_k=[5], temperature=[0.0]).sampling is None


def test_top_k_and_top_p_draw_with_temperature_and_seed() -> None:
    drawn = read(runtime_top_k=[5], runtime_top_p=[0.5], temperature=[0.7], seed=[11]).sampling
    assert drawn is not None
    assert (drawn.top_k, drawn.top_p, drawn.temperature, drawn.seed) == (5, 0.5, 0.7, 11)


def test_the_output_is_shortened_to_the_room_that_is_left() -> None:
    assert read(request_output_len=[4]).stop.max_new_tokens == 4
    assert read(request_output_len=[500]).stop.max_new_tokens == 7


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers() -> None:
    message = refusal(input_ids=[list(range(1, 9))], input_lengths=[8])
    assert "8 tokens" in message
    assert "7" in message


def test_input_lengths_cuts_padding_off_the_prompt() -> None:
    assert read(input_lengths=[2]).prompt_ids == [5, 6]


def test_no_end_id_and_minus_one_mean_that_no_token_ends_the_output() -> None:
    without = tensors()
    del without["end_id"]
    assert read_request(without, request_id="", profile=a_profile()).stop.end_id is None
    assert read(end_id=[-1]).stop.end_id is None
    assert read().stop.end_id == 2


def test_stop_words_are_read_from_their_layout() -> None:
    assert read(stop_words_list=[pack([[8, 9], [4]])]).stop.stop_words == ((8, 9), (4,))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input_ids": [[5, 100, 7]]}, "100"),
        ({"input_ids": [[5, -1, 7]]}, "-1"),
        ({"input_lengths": [4]}, "input_lengths"),
        ({"request_output_len": [0]}, "request_output_len"),
        ({"runtime_top_k": [-1]}, "runtime_top_k"),
        ({"runtime_top_p": [1.5]}, "runtime_top_p"),
        ({"temperature": [-0.1]}, "temperature"),
        ({"temperature": [float("nan")]}, "temperature"),
        ({"repetition_penalty": [0.0]}, "repetition_penalty"),
        ({"presence_penalty": [3.0]}, "presence_penalty"),
        ({"min_tokens": [-1]}, "min_tokens"),
        ({"stop_words_list": [[[1, 2], [3, -1]]]}, "stop_words_list"),
        ({"stop_words_list": [[[-7], [1]]]}, "stop_words_list holds -7"),
        ({"bad_words_list": [[[100], [1]]]}, "bad_words_list holds 100"),
        ({"end_id": [100]}, "end_id holds 100"),
        ({"prompt_table_extra_ids": [[7]]}, "prompt_table_extra_ids"),
        ({"an_unknown_tensor": [1]}, "an_unknown_tensor"),
    ],
)
def test_a_bad_value_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    assert said in refusal(**changes)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_every_tensor_that_is_not_served_is_refused_by_name_and_reason(name: str) -> None:
    message = refusal(**{name: [[3]]})
    assert message.startswith(f"{name}: {REFUSED[name]}")


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_an_empty_tensor_asks_for_nothing(name: str) -> None:
    assert read(**{name: np.zeros((1, 0), np.float32)}).prompt_ids == [5, 6, 7]


def test_one_beam_and_false_ask_for_nothing() -> None:
    assert read(beam_width=[1], num_return_sequences=[1], return_context_logits=[False]) == read()


@pytest.mark.parametrize("name", sorted(ACCEPTED))
def test_what_is_accepted_without_effect_changes_nothing(name: str) -> None:
    assert read(**{name: [[3]]}) == read()


def test_every_tensor_of_the_published_model_is_either_served_or_not_with_a_reason() -> None:
    published = contract()["tensorrt_llm"]
    assert sorted([*SERVED, *ACCEPTED, *REFUSED]) == sorted(tensor.name for tensor in published.inputs)
    assert sorted([*SERVED_OUTPUTS, *ABSENT_OUTPUTS]) == sorted(tensor.name for tensor in published.outputs)


def test_streaming_needs_a_decoupled_model() -> None:
    assert "decoupled" in refusal(a_profile(decoupled=False), streaming=[True])


def test_a_stream_never_echoes_the_prompt_and_a_request_overrides_the_parameter() -> None:
    assert not read(streaming=[True], exclude_input_in_output=[False]).wishes.echo_prompt
    assert read(exclude_input_in_output=[False]).wishes.echo_prompt
    assert not read(a_profile(exclude=False), exclude_input_in_output=[True]).wishes.echo_prompt
    assert read(a_profile(exclude=False)).wishes.echo_prompt


def test_bad_words_need_an_engine_with_a_tokenizer() -> None:
    words = [pack([[4]])]
    assert read(bad_words_list=words).stop.bad_words == ((4,),)
    assert "bad_words_list" in refusal(a_profile(bans_words=False), bad_words_list=words)


def guided(kind: bytes, guide: bytes = b"") -> dict[str, Any]:
    given = {"guided_decoding_guide_type": [[kind]], "guided_decoding_guide": [[guide]]}
    return {name: np.array(value, np.object_) for name, value in given.items()}


@pytest.mark.parametrize(
    ("kind", "guide"),
    [("json", ""), ("json_schema", '{"type": "integer"}'), ("regex", "[0-9]+"), ("ebnf_grammar", 'root ::= "a"')],
)
def test_a_guide_is_read_with_its_type(kind: str, guide: str) -> None:
    assert read(**guided(kind.encode(), guide.encode())).stop.guide == Guide(kind=kind, text=guide)


def test_no_guide_and_empty_texts_ask_for_nothing() -> None:
    assert read().stop.guide is None
    assert read(**guided(b"")).stop.guide is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (guided(b"structural_tag", b"{}"), "'structural_tag', the types are json, json_schema, regex, ebnf_grammar"),
        (guided(b"", b"a"), "guided_decoding_guide_type is missing"),
        (guided(b"regex"), "guided_decoding_guide is missing or empty: the type regex needs one"),
        (guided(b"json", b"{}"), "the type json takes none; for a schema send json_schema"),
        (guided(b"json_schema", b"{"), "guided_decoding_guide is no JSON"),
        (guided(b"json_schema", b"[" * 20000), "guided_decoding_guide is no JSON"),
        (guided(b"json_schema", b"[]"), "must be an object"),
        (guided(b"regex", b"\xff"), "guided_decoding_guide is not UTF-8"),
        (guided(b"regex", b"a" * 70000), "70000 characters, the limit is 65536"),
        ({**guided(b"json"), "bad_words_list": [pack([[4]])]}, "guided_decoding_guide and bad_words_list are given"),
        ({**guided(b"json"), "end_id": [-1]}, "end_id is missing"),
        ({**guided(b"json"), "min_tokens": [2]}, "min_tokens is 2"),
    ],
)
def test_a_guide_that_cannot_be_followed_is_refused_in_words(changes: dict[str, Any], said: str) -> None:
    assert said in refusal(**changes)


def test_a_guide_needs_an_engine_with_a_tokenizer() -> None:
    assert "built without a tokenizer" in refusal(a_profile(bans_words=False), **guided(b"json"))
