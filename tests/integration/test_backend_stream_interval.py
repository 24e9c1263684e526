"""`runtime.stream_interval` on a real tritonserver: the same text in fewer responses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from slipstream.text.tokenizer import Tokenizer
from tests.conftest import Served, serve_copy
from tests.integration.triton_calls import (
    PROMPT,
    Response,
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
INTERVAL = 4


@pytest.fixture(scope="module")
def served_by_four(artifacts: Path) -> Iterator[Served]:
    with serve_copy(artifacts, "by-four", f"runtime.stream_interval={INTERVAL}") as server:
        yield server


@pytest.fixture(scope="module")
def prompt(artifacts: Path) -> list[int]:
    return Tokenizer.load(artifacts / "model").encode(PROMPT)


@pytest.fixture
def stream(served_by_four: Served) -> Iterator[Stream]:
    stream = Stream(served_by_four)
    yield stream
    stream.close()


def at_most(tokens: int) -> int:
    """Responses of a stream of `tokens` tokens."""
    return 1 + ceil((tokens - 1) / INTERVAL)


def a_text(served: Served, model: str, tokens: int, **inputs: Any) -> list[Response]:
    return ask(served, model, text_input=PROMPT, max_tokens=tokens, end_id=-1, stream=True, **inputs)


@pytest.mark.parametrize("tokens", [1, 2, 5, 6, 30])
def test_the_tokens_are_the_same_in_groups_of_four(
    served: Served, served_by_four: Served, prompt: list[int], tokens: int
) -> None:
    singly, grouped = (
        ask(server, ENGINE, **prompt_of(prompt, tokens), streaming=True) for server in (served, served_by_four)
    )
    assert token_ids(grouped) == token_ids(singly)
    sizes = [int(response["sequence_length"].item()) for response in grouped]
    assert sizes[0] < INTERVAL
    assert all(size >= INTERVAL for size in sizes[1:-1])
    assert len(sizes) <= at_most(tokens)
    assert sum(sizes) == tokens


@pytest.mark.parametrize("model", TEXT_MODELS)
@pytest.mark.parametrize("tokens", [1, 6, 30])
def test_the_text_is_the_same_in_fewer_responses(
    served: Served, served_by_four: Served, model: str, tokens: int
) -> None:
    grouped = a_text(served_by_four, model, tokens, return_num_output_tokens=True)
    assert text(grouped) == text(a_text(served, model, tokens))
    assert sum(int(response["num_output_tokens"].item()) for response in grouped) == tokens
    assert len(grouped) <= at_most(tokens)


def test_log_probs_come_with_their_tokens(served_by_four: Served, prompt: list[int]) -> None:
    responses = ask(served_by_four, ENGINE, **prompt_of(prompt, 10), streaming=True, return_log_probs=True)
    assert [response["output_log_probs"].size for response in responses] == [
        response["output_ids"].size for response in responses
    ]
    total = sum(float(response["output_log_probs"].sum()) for response in responses)
    assert responses[-1]["cum_log_probs"].item() == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize("model", TEXT_MODELS)
def test_a_stop_word_ends_a_text_where_it_would_end_it_singly(
    served: Served, served_by_four: Served, model: str
) -> None:
    stop = text(a_text(served, model, 12))[3:6]
    singly, grouped = (text(a_text(server, model, 12, stop_words=stop)) for server in (served, served_by_four))
    assert grouped == singly


def test_the_first_token_and_the_last_response_wait_for_nothing(
    served_by_four: Served, prompt: list[int], stream: Stream
) -> None:
    stream.start(ENGINE, request_id="41", **prompt_of(prompt, 1500), streaming=True)
    first = stream.next()
    assert first is not None
    assert first["sequence_length"].item() < INTERVAL
    stop(served_by_four, "41")
    began = time.monotonic()
    rest = stream.rest()
    assert rest, "the last response"
    assert time.monotonic() - began < 5, "1500 tokens take longer"


def stop(served: Served, request_id: str) -> None:
    ask_to_stop = Stream(served)
    ask_to_stop.start(ENGINE, request_id=request_id, stop=True, **prompt_of([1], 1))
    ask_to_stop.rest()
    ask_to_stop.close()


@pytest.mark.parametrize("model", [*TEXT_MODELS, ENGINE])
def test_a_client_that_goes_away_frees_the_engine(
    served_by_four: Served, prompt: list[int], stream: Stream, model: str
) -> None:
    wait_for_active(served_by_four, 0)
    if model == ENGINE:
        stream.start(model, **prompt_of(prompt, 1500), streaming=True)
    else:
        stream.start(model, text_input=PROMPT, max_tokens=1500, stream=True, end_id=-1)
    assert stream.next() is not None
    assert active_requests(served_by_four) == 1
    stream.close()
    wait_for_active(served_by_four, 0)
    assert active_requests(served_by_four) == 0  # sooner than 1500 tokens could be written


def test_without_streaming_there_is_one_response(served_by_four: Served) -> None:
    (response,) = ask(served_by_four, "ensemble", text_input=PROMPT, max_tokens=9)
    assert text([response])
