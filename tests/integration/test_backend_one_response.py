"""The models without streaming (`runtime.decoupled=false`): one response a request, also over plain infer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slipstream.text.tokenizer import Tokenizer
from tests.conftest import Served, serve_copy
from tests.integration.triton_calls import PROMPT, active_requests, infer, inputs, prompt_of, text, wait_for_active

ENGINE = "tensorrt_llm"
TEXT_MODELS = ("ensemble", "tensorrt_llm_bls")
TWO = np.array([[b"a"], [b"b"]], np.object_)


@pytest.fixture(scope="module")
def served_whole(artifacts: Path) -> Iterator[Served]:
    with serve_copy(artifacts, "one-response", "runtime.decoupled=false") as server:
        yield server


@pytest.fixture(scope="module")
def prompt(artifacts: Path) -> list[int]:
    return Tokenizer.load(artifacts / "model").encode(PROMPT)


class Pending:
    """One infer call in progress, and its answer."""

    def __init__(self, served: Served, model: str, *, request_id: str = "", **values: Any) -> None:
        from queue import Queue

        import tritonclient.grpc

        self._client = tritonclient.grpc.InferenceServerClient(served.grpc)
        self._answer: Queue[Any] = Queue()
        self._call = self._client.async_infer(
            model, inputs(values), lambda result, error: self._answer.put((result, error)), request_id=request_id
        )

    def cancel(self) -> None:
        self._call.cancel()

    def length(self) -> int:
        result, error = self._answer.get(timeout=30)
        if error is not None:
            raise error
        return int(result.as_numpy("sequence_length").item())


def test_every_path_answers_once_with_the_same_text(served_whole: Served, prompt: list[int]) -> None:
    direct = infer(served_whole, ENGINE, **prompt_of(prompt, 8), exclude_input_in_output=True)
    written = Tokenizer.load(served_whole.model_dir).decode(direct["output_ids"].reshape(-1).tolist())
    texts = [text([infer(served_whole, model, text_input=PROMPT, max_tokens=8)]) for model in TEXT_MODELS]
    assert texts == [written, written]


@pytest.mark.parametrize("model", TEXT_MODELS)
def test_the_prompt_is_echoed_where_it_is_not_excluded(served_whole: Served, model: str) -> None:
    answer = infer(served_whole, model, text_input=PROMPT, max_tokens=4, exclude_input_in_output=False)
    assert text([answer]).startswith(PROMPT)


def test_a_stream_is_refused(served_whole: Served, prompt: list[int]) -> None:
    for model in TEXT_MODELS:
        with pytest.raises(Exception, match="not decoupled"):
            infer(served_whole, model, text_input=PROMPT, max_tokens=4, stream=True)
    with pytest.raises(Exception, match="not decoupled"):
        infer(served_whole, ENGINE, **prompt_of(prompt, 4), streaming=True)


def test_beams_fit_one_response_and_several_sequences_do_not(served_whole: Served, prompt: list[int]) -> None:
    direct = infer(served_whole, ENGINE, **prompt_of(prompt, 6), exclude_input_in_output=False, beam_width=3)
    assert direct["output_ids"].shape == (1, 3, len(prompt) + 6)
    assert all(row[: len(prompt)].tolist() == prompt for row in direct["output_ids"][0])
    for model in TEXT_MODELS:
        beams = infer(served_whole, model, text_input=PROMPT, max_tokens=6, beam_width=3)
        assert len(set(beams["text_output"].reshape(-1))) == 3
        for several in ({"num_return_sequences": 2}, {"text_input": TWO, "max_tokens": np.array([[4], [4]], np.int32)}):
            with pytest.raises(Exception, match=r"2 sequences in \d rows, but the model is not decoupled"):
                infer(served_whole, model, **{"text_input": PROMPT, "max_tokens": 4, **several})


def test_a_stop_request_ends_a_request_with_what_it_has(served_whole: Served, prompt: list[int]) -> None:
    from tritonclient.grpc import InferenceServerClient

    pending = Pending(served_whole, ENGINE, request_id="81", **prompt_of(prompt, 1500))
    wait_for_active(served_whole, 1)
    with InferenceServerClient(served_whole.grpc) as client:
        client.infer(ENGINE, inputs({"stop": True, **prompt_of([1], 1)}), request_id="81")
    assert pending.length() < 1500
    wait_for_active(served_whole, 0)


@pytest.mark.parametrize("model", [ENGINE, "tensorrt_llm_bls"])
def test_a_client_that_goes_away_frees_the_engine(served_whole: Served, prompt: list[int], model: str) -> None:
    """Not through the ensemble: it has no later step that could learn of it, so its request runs to the end."""
    is_direct = model == ENGINE
    values = prompt_of(prompt, 1500) if is_direct else {"text_input": PROMPT, "max_tokens": 1500, "end_id": -1}
    pending = Pending(served_whole, model, **values)
    wait_for_active(served_whole, 1)
    pending.cancel()
    wait_for_active(served_whole, 0)
    assert active_requests(served_whole) == 0  # and not by reaching its 1500 tokens: the wait is shorter than that


@pytest.mark.parametrize("model", TEXT_MODELS)
def test_a_guide_is_followed_or_refused_in_one_response(served_whole: Served, model: str) -> None:
    def guided(regex: str) -> str:
        guide = {"guided_decoding_guide_type": "regex", "guided_decoding_guide": regex}
        return text([infer(served_whole, model, text_input=PROMPT, max_tokens=20, **guide)])

    assert guided("[0-9]{5}").isdigit()
    with pytest.raises(Exception, match="parenthesis is not closed"):
        guided("(a")
