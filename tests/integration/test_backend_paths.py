"""The three paths to the engine on a real tritonserver: same text, refusals in words, and clients that go away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from slipstream.text.tokenizer import Tokenizer
from tests.conftest import Served
from tests.integration.triton_calls import (
    PROMPT,
    Stream,
    active_requests,
    ask,
    prompt_of,
    text,
    token_ids,
    wait_for_active,
)

ENGINE = "tensorrt_llm"
TEXT_MODELS = ("ensemble", "tensorrt_llm_bls")
PATHS = (*TEXT_MODELS, ENGINE)


@pytest.fixture
def tokenizer(served: Served) -> Tokenizer:
    return Tokenizer.load(served.model_dir)


@pytest.fixture
def stream(served: Served) -> Iterator[Stream]:
    stream = Stream(served)
    yield stream
    stream.close()


def a_text(served: Served, model: str, *, max_tokens: int = 12, **inputs: Any) -> str:
    return text(ask(served, model, text_input=PROMPT, max_tokens=max_tokens, stream=True, **inputs))


def a_long_request(model: str, tokenizer: Tokenizer, *, streaming: bool = True) -> dict[str, Any]:
    """A stream that would run for tens of seconds."""
    if model == ENGINE:
        return {**prompt_of(tokenizer.encode(PROMPT), 1500), "streaming": streaming}
    return {"text_input": PROMPT, "max_tokens": 1500, "stream": streaming, "end_id": -1}


def test_all_paths_write_the_same_text(served: Served, tokenizer: Tokenizer) -> None:
    ids = token_ids(ask(served, ENGINE, **prompt_of(tokenizer.encode(PROMPT), 12), streaming=True))
    assert a_text(served, "ensemble") == a_text(served, "tensorrt_llm_bls") == tokenizer.decode(ids)


@pytest.mark.parametrize("model", TEXT_MODELS)
def test_a_stop_word_ends_the_text_also_in_the_middle_of_tokens(served: Served, model: str) -> None:
    whole = a_text(served, model)
    middle = whole[3:6]
    stopped = a_text(served, model, stop_words=middle)
    assert middle in stopped
    assert len(stopped) < len(whole)


@pytest.mark.parametrize("model", TEXT_MODELS)
def test_bad_words_are_never_written(served: Served, model: str) -> None:
    banned = ["Paris", "apital", " the", "population of"]
    allowed = a_text(served, model, max_tokens=40)
    assert "Paris" in allowed
    written = a_text(served, model, max_tokens=40, bad_words=banned)
    assert written
    assert not [word for word in banned if word in written]


def test_bad_words_stop_words_and_sampling_go_together(served: Served) -> None:
    def sampled(**inputs: Any) -> str:
        return a_text(served, "ensemble", max_tokens=60, top_k=40, temperature=1.2, seed=5, **inputs)

    written = sampled(bad_words=["Paris", "\n"], stop_words="e")
    assert written.count("e") == 1 or "e" in written[-4:]
    assert "Paris" not in written
    assert "\n" not in written


@pytest.mark.parametrize("model", TEXT_MODELS)
def test_a_refusal_names_the_tensor(served: Served, model: str) -> None:
    with pytest.raises(Exception, match="beam_width is 99"):
        a_text(served, model, beam_width=99)


@pytest.mark.parametrize("model", TEXT_MODELS)
def test_the_prompt_is_echoed_or_not_as_the_request_says(served: Served, model: str) -> None:
    def one(*, exclude: bool) -> str:
        (response,) = ask(served, model, text_input=PROMPT, max_tokens=8, exclude_input_in_output=exclude)
        return text([response])

    assert one(exclude=False) == PROMPT + one(exclude=True)
    assert not one(exclude=True).startswith(PROMPT)


@pytest.mark.parametrize("model", TEXT_MODELS)
@pytest.mark.parametrize("streaming", [True, False])
def test_counts_and_figures_are_exact(served: Served, tokenizer: Tokenizer, model: str, streaming: bool) -> None:
    wishes = dict.fromkeys(("return_num_input_tokens", "return_num_output_tokens", "return_perf_metrics"), True)
    responses = ask(served, model, text_input=PROMPT, max_tokens=9, end_id=-1, stream=streaming, **wishes)
    assert {int(response["num_input_tokens"].item()) for response in responses} == {len(tokenizer.encode(PROMPT))}
    assert sum(int(response["num_output_tokens"].item()) for response in responses) == 9
    last = {name: value.item() for name, value in responses[-1].items() if value.size == 1}
    assert last["arrival_time_ns"] < last["first_token_time_ns"] < last["last_token_time_ns"]
    assert (last["acceptance_rate"], last["total_draft_tokens"], last["total_accepted_draft_tokens"]) == (0, 0, 0)


def test_the_end_id_ends_the_output_and_is_no_part_of_it(served: Served, tokenizer: Tokenizer) -> None:
    prompt = prompt_of(tokenizer.encode(PROMPT), 12)
    free = token_ids(ask(served, ENGINE, **prompt, exclude_input_in_output=True))
    end_id = next(token for token in free[1:] if token != free[0])
    ended = free[: free.index(end_id)]
    for streaming in (True, False):
        given = ask(served, ENGINE, **prompt, exclude_input_in_output=True, end_id=end_id, streaming=streaming)
        assert token_ids(given) == ended
    (at_once,) = ask(served, ENGINE, **prompt, exclude_input_in_output=True, end_id=free[0], pad_id=7)
    assert (at_once["sequence_length"].item(), at_once["output_ids"].size) == (0, 0)


@pytest.mark.parametrize("model", PATHS)
@pytest.mark.parametrize("streaming", [True, False])
def test_a_client_that_goes_away_frees_the_engine(
    served: Served, tokenizer: Tokenizer, stream: Stream, model: str, streaming: bool
) -> None:
    wait_for_active(served, 0)
    stream.start(model, **a_long_request(model, tokenizer, streaming=streaming))
    wait_for_active(served, 1)
    if streaming:
        stream.next()
    stream.close()
    wait_for_active(served, 0)
    assert active_requests(served) == 0  # and not by reaching its 1500 tokens: the wait is shorter than that


def test_a_stop_request_ends_the_request_of_its_id_and_no_other(
    served: Served, tokenizer: Tokenizer, stream: Stream
) -> None:
    wait_for_active(served, 0)
    other = Stream(served)
    stream.start(ENGINE, request_id="71", **a_long_request(ENGINE, tokenizer))
    other.start(ENGINE, request_id="72", **a_long_request(ENGINE, tokenizer))
    wait_for_active(served, 2)
    assert stop(served, "71") == []
    rest = stream.rest()  # the last response comes, and then the final flag
    assert len(token_ids(rest)) < 1500
    wait_for_active(served, 1)
    other.close()
    wait_for_active(served, 0)


def test_a_stop_request_needs_an_id_that_need_not_be_known(served: Served) -> None:
    assert stop(served, "9999") == []
    with pytest.raises(Exception, match="no id"):
        stop(served, "")


def stop(served: Served, request_id: str) -> list[Any]:
    """The responses to a `stop` request."""
    stream = Stream(served)
    try:
        stream.start(ENGINE, request_id=request_id, stop=True, **prompt_of([1], 1))
        return stream.rest()
    finally:
        stream.close()


def test_a_malformed_word_list_is_refused_alone(served: Served, tokenizer: Tokenizer) -> None:
    for name in ("stop_words_list", "bad_words_list"):
        with pytest.raises(Exception, match=f"{name} holds -7, the vocabulary has ids 0 to 49151"):
            ask(served, ENGINE, **prompt_of(tokenizer.encode(PROMPT), 4), **{name: np.array([[[-7], [1]]], np.int32)})
