"""Logits on every path; that they are right is shown beside the reference, in test_backend_reference.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from slipstream.text.tokenizer import Tokenizer
from tests.conftest import Served
from tests.integration.triton_calls import PROMPT, ask, prompt_of, text

ENGINE, TEXT_MODELS = "tensorrt_llm", ("ensemble", "tensorrt_llm_bls")
BOTH = {"return_context_logits": True, "return_generation_logits": True}
VOCABULARY = 49152
NUM_TOKENS = 6


@pytest.fixture(scope="module")
def tokenizer(artifacts: Path) -> Tokenizer:
    return Tokenizer.load(artifacts / "model")


@pytest.fixture(scope="module")
def prompt(tokenizer: Tokenizer) -> list[int]:
    return tokenizer.encode(PROMPT)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("model", TEXT_MODELS)
def test_the_text_models_pass_them_on(
    served_accuracy: Served, tokenizer: Tokenizer, prompt: list[int], model: str, streaming: bool
) -> None:
    responses = ask(
        served_accuracy, model, text_input=PROMPT, max_tokens=NUM_TOKENS, stream=streaming, end_id=-1, **BOTH
    )
    assert [name for response in responses[:-1] for name in response if name.endswith("_logits")] == []
    last = responses[-1]
    assert last["context_logits"].shape == (1, len(prompt), VOCABULARY)
    assert last["generation_logits"].shape == (1, 1, NUM_TOKENS, VOCABULARY)
    assert tokenizer.decode(last["generation_logits"][0, 0].argmax(axis=-1).tolist()) == text(responses)


def test_more_than_a_response_holds_is_refused_with_the_limit(served_accuracy: Served, prompt: list[int]) -> None:
    with pytest.raises(Exception, match="return_generation_logits: logits of up to 400 tokens, the limit is 341"):
        ask(served_accuracy, ENGINE, **prompt_of(prompt, 400), return_generation_logits=True)
    (largest,) = ask(
        served_accuracy, ENGINE, **prompt_of((prompt * 70)[:340], 1), return_context_logits=True, streaming=False
    )
    assert largest["context_logits"].nbytes == 340 * VOCABULARY * 4


def test_a_process_that_is_killed_costs_no_request(served_accuracy: Served, prompt: list[int]) -> None:
    def logits() -> Any:
        return ask(served_accuracy, ENGINE, **prompt_of(prompt, 2), return_generation_logits=True)[0]

    before = logits()["generation_logits"]
    (process,) = passes_of(served_accuracy)
    process.kill()
    np.testing.assert_allclose(logits()["generation_logits"], before, atol=1e-3)
    assert len(passes_of(served_accuracy)) == 1


def passes_of(served: Served) -> list[psutil.Process]:
    children = psutil.Process(served.pid).children(recursive=True)
    return [child for child in children if "slipstream.backend.logits_pass" in child.cmdline()]
