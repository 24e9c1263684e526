"""The engine of the bundled model: its tokens are Hugging Face's, its tokenizer is the checkpoint's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.fakes.engines import greedy, logits, pipeline
from tests.fakes.hugging_face import as_quantized, greedy_tokens

PROMPTS = [
    "What is the capital of France?",
    "def fibonacci(n):\n    ",
    "Напиши стихотворение о море.",
    "今日の天気は",
    "😀 1234567890",
]
NUM_TOKENS = 64
LOGIT_TOLERANCE = 5e-3  # logits reach 30; measured 1.2e-3


@pytest.fixture(scope="module")
def tokenizer(artifacts: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(artifacts / "model")


@pytest.fixture(scope="module")
def prompts(tokenizer: Any) -> list[list[int]]:
    return [tokenizer(text, add_special_tokens=False).input_ids for text in PROMPTS]


@pytest.fixture(scope="module")
def reference(artifacts: Path) -> Any:
    return as_quantized(artifacts / "model")


@pytest.fixture(scope="module")
def accurate(artifacts: Path) -> Any:
    return pipeline(artifacts / "engine", "accuracy")


def test_logits_are_hugging_faces(artifacts: Path, reference: Any, prompts: list[list[int]]) -> None:
    ids = np.array([prompts[0]])
    with torch.inference_mode():
        expected = reference(torch.from_numpy(ids)).logits.numpy()
    np.testing.assert_allclose(logits(artifacts / "engine", ids, chunk=5), expected, atol=LOGIT_TOLERANCE, rtol=0)


def test_greedy_tokens_are_hugging_faces_one_by_one_and_in_flight(
    accurate: Any, reference: Any, prompts: list[list[int]]
) -> None:
    expected = [greedy_tokens(reference, prompt, NUM_TOKENS) for prompt in prompts]
    assert [greedy(accurate, [prompt], NUM_TOKENS)[0] for prompt in prompts] == expected
    assert greedy(accurate, prompts, NUM_TOKENS) == expected


def test_performance_mode_answers_the_question(artifacts: Path, tokenizer: Any) -> None:
    chat = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(chat, add_special_tokens=False).input_ids
    (answer,) = greedy(pipeline(artifacts / "engine", "performance"), [ids], 8)
    assert "Paris" in tokenizer.decode(answer)


def test_facts_are_those_of_the_model(artifacts: Path) -> None:
    facts = json.loads((artifacts / "engine" / "engine.json").read_text())
    assert (facts["vocab_size"], facts["num_layers"], facts["quant_algo"]) == (49152, 30, "W8A16")
    assert (facts["eos_token_ids"], facts["has_tokenizer"]) == ([2], True)


@pytest.mark.parametrize(
    "text",
    [
        "Hello world",
        "  two  spaces\n\n\tx=12345",
        "Привет, мир 中文 한국어 العربية हिन्दी ไทย",
        "😀👩‍👩‍👧 cafe\u0301 ½ １２",
        "<|im_start|>user\nHi<|im_end|>\n",
        "def f(x):\n    return x**2  # ok",
    ],
)
def test_converted_tokenizer_is_the_models(artifacts: Path, tokenizer: Any, text: str) -> None:
    import openvino_genai

    converted = openvino_genai.Tokenizer(str(artifacts / "engine"))
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert converted.encode(text, add_special_tokens=False).input_ids.data[0].tolist() == ids
    assert converted.decode(ids, skip_special_tokens=False) == text


def test_stop_strings_and_grammars_work_with_token_ids(artifacts: Path, tokenizer: Any) -> None:
    import openvino_genai

    def generate(**settings: Any) -> str:
        config = openvino_genai.GenerationConfig(max_new_tokens=24, do_sample=False, **settings)
        config.set_eos_token_id(2)
        chat = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
        ids = np.array([tokenizer(chat, add_special_tokens=False).input_ids])
        return tokenizer.decode(generate_ids(pipe, ids, config), skip_special_tokens=True)

    pipe = pipeline(artifacts / "engine", "performance")
    assert "Paris" not in generate(stop_strings={"Paris"})
    grammar = openvino_genai.StructuredOutputConfig(regex="(London|Rome)!{3}")
    assert generate(structured_output_config=grammar) in {"London!!!", "Rome!!!"}


def generate_ids(pipe: Any, ids: Any, config: Any) -> list[int]:
    import openvino

    handle = pipe.add_request(0, openvino.Tensor(ids), config)
    while pipe.has_non_finished_requests():
        pipe.step()
    return list(handle.read_all()[0].generated_ids)
