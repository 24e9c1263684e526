"""Speculation inside the engine on a real tritonserver: the same greedy tokens in fewer steps, request by request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slipstream.text.tokenizer import Tokenizer
from tests.conftest import Served, serve_copy
from tests.integration.test_backend_metrics import Scrape, scrape, scrape_until
from tests.integration.triton_calls import Response, Stream, ask, prompt_of, token_ids, wait_for_active

ENGINE = "tensorrt_llm"
NGRAM = ("engine.speculation.mode=ngram", "engine.speculation.max_draft_len=3", "runtime.speculation=on")
TEXTS = (
    "The quick brown fox jumps over the lazy dog. The quick brown fox jumps over the lazy dog. The quick brown",
    "Repeat after me: one, two, three, four, five, six. One, two,",
    "The capital of France is",
)
TOKENS = 40
COUNTS = ("total_draft_tokens", "total_accepted_draft_tokens", "acceptance_rate")


@pytest.fixture(scope="module")
def speculating(artifacts: Path) -> Iterator[Served]:
    with serve_copy(artifacts, "speculating", "runtime.execution=accuracy", *NGRAM) as server:
        yield server


@pytest.fixture(scope="module")
def prompts(artifacts: Path) -> list[list[int]]:
    tokenizer = Tokenizer.load(artifacts / "model")
    return [tokenizer.encode(text) for text in TEXTS]


def generate(served: Served, prompt: list[int], wish: str | None = None, **more: Any) -> list[Response]:
    parameters = None if wish is None else {"speculation": wish}
    inputs = {"streaming": True, "return_perf_metrics": True, **prompt_of(prompt, TOKENS), **more}
    return ask(served, ENGINE, parameters=parameters, **inputs)


def counts(responses: list[Response]) -> tuple[float, ...]:
    return tuple(float(responses[-1][name].item()) for name in COUNTS)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"return_log_probs": True},
        {"repetition_penalty": 1.2},
        {"presence_penalty": 0.4, "frequency_penalty": 0.3},
        {"end_id": 30},
        {"streaming": False},
    ],
    ids=lambda more: "-".join(more) or "plain",
)
def test_the_tokens_are_the_same_with_and_without(
    speculating: Served, prompts: list[list[int]], more: dict[str, Any]
) -> None:
    for prompt in prompts:
        with_it, without = (generate(speculating, prompt, wish, **more) for wish in ("on", "off"))
        assert token_ids(with_it) == token_ids(without)
        assert counts(without) == (0, 0, 0)
        if "return_log_probs" in more:
            sums = [response[-1]["cum_log_probs"].item() for response in (with_it, without)]
            assert sums[0] == pytest.approx(sums[1], abs=1e-3)


def test_requests_with_and_without_run_together(speculating: Served, prompts: list[list[int]]) -> None:
    alone = [token_ids(generate(speculating, prompt, "off")) for prompt in prompts]
    streams = [Stream(speculating) for _ in range(6)]
    for index, stream in enumerate(streams):
        inputs = prompt_of(prompts[index % 3], TOKENS)
        stream.start(ENGINE, parameters={"speculation": "on" if index < 3 else "off"}, streaming=True, **inputs)
    together = [token_ids(stream.rest()) for stream in streams]
    for stream in streams:
        stream.close()
    assert together == [*alone, *alone]


def test_a_repeated_text_takes_fewer_steps_and_its_response_counts_them(
    speculating: Served, prompts: list[list[int]]
) -> None:
    responses = generate(speculating, prompts[0])
    drafted, accepted, rate = counts(responses)
    assert 0 < accepted <= drafted
    assert rate == pytest.approx(accepted / drafted)
    assert max(int(response["sequence_length"].item()) for response in responses) > 1, (
        "tokens of a step travel together"
    )
    assert len(responses) < TOKENS


def test_where_it_is_measured_first_nothing_speculates_at_once(speculating: Served, prompts: list[list[int]]) -> None:
    assert counts(generate(speculating, prompts[0], "auto")) == (0, 0, 0)


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_a_request_for_text_says_what_it_wants_too(speculating: Served, model: str) -> None:
    inputs = {"text_input": TEXTS[0], "max_tokens": TOKENS, "end_id": -1, "return_perf_metrics": True, "stream": True}
    drafted, none = (
        sum(float(response["total_draft_tokens"].item()) for response in responses if "total_draft_tokens" in response)
        for wish in ("on", "off")
        for responses in [ask(speculating, model, parameters={"speculation": wish}, **inputs)]
    )
    assert drafted > 0 == none


def test_drawn_tokens_come_without_and_are_refused_where_speculation_is_asked_for(
    speculating: Served, prompts: list[list[int]]
) -> None:
    assert counts(generate(speculating, prompts[0], runtime_top_p=0.9, seed=3)) == (0, 0, 0)
    with pytest.raises(Exception, match="speculation is on: tokens are drawn"):
        generate(speculating, prompts[0], "on", runtime_top_p=0.9)


def test_a_least_length_is_kept_without_speculation(speculating: Served, prompts: list[list[int]]) -> None:
    for prompt in prompts:  # 28 and 30, comma and full stop, would end each of them
        assert len(token_ids(generate(speculating, prompt, min_tokens=30, end_id=30))) >= 30


def test_an_engine_without_speculation_refuses_on_and_a_word_that_is_none(
    served: Served, prompts: list[list[int]]
) -> None:
    with pytest.raises(Exception, match=r"the deployment has no engine\.speculation"):
        generate(served, prompts[0], "on")
    with pytest.raises(Exception, match="it must be off, auto or on"):
        generate(served, prompts[0], "fast")
    assert counts(generate(served, prompts[0], "auto")) == (0, 0, 0)


def test_a_speculating_client_that_goes_away_frees_the_engine(speculating: Served, prompts: list[list[int]]) -> None:
    stream = Stream(speculating)
    stream.start(ENGINE, streaming=True, **prompt_of(prompts[0], 1500))
    assert stream.next() is not None
    stream.close()
    wait_for_active(speculating, 0)


def test_the_metrics_count_what_the_responses_tell(speculating: Served, prompts: list[list[int]]) -> None:
    wait_for_active(speculating, 0)
    totals = ("vllm:spec_decode_num_draft_tokens_total", "vllm:spec_decode_num_accepted_tokens_total")
    before = scrape(speculating)
    drafted, accepted, _ = counts(generate(speculating, prompts[0]))
    wait_for_active(speculating, 0)

    def risen(got: Scrape) -> list[float]:
        return [got.samples[name][0][1] - before.samples[name][0][1] for name in totals]

    got = scrape_until(speculating, lambda got: risen(got)[0] > 0, "drafts are counted")
    assert risen(got) == [drafted, accepted]
