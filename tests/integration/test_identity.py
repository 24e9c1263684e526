"""In accuracy mode every way to the engine gives the same greedy text: Hugging Face's, token for token."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slipstream.client import TritonClient
from slipstream.text.tokenizer import Tokenizer
from tests.conftest import Served
from tests.fakes.engines import greedy, pipeline
from tests.fakes.hugging_face import as_quantized, greedy_tokens

PROMPTS = (
    "What is the capital of France?",
    "The three primary colours are",
    "def fibonacci(n):\n    ",
    "SELECT name, age FROM users WHERE",
    '{"name": "Ada", "born": 1815, "fields": [',
    "1, 1, 2, 3, 5, 8, 13, 21,",
    "Once upon a time, in a village by the sea,",
    "Напиши стихотворение о море.",
    "Η πρωτεύουσα της Ελλάδας είναι",
    "今日の天気は",
    "床前明月光，",
    "대한민국의 수도는",
    "عاصمة مصر هي",
    "भारत की राजधानी",
    "บทกวีเกี่ยวกับทะเล",
    "עיר הבירה של ישראל היא",
    "😀😃😄 🇫🇷🇩🇪 👩‍👩‍👧‍👦 ",
    "Ünïcödé naïve café — “quotes” … ½",
    "<|im_start|>user\nWho wrote Hamlet?<|im_end|>\n<|im_start|>assistant\n",
    "   leading spaces\tand\ttabs\n\n",
)
NUM_TOKENS = 32
AT_ONCE = 16


@pytest.fixture(scope="module")
def tokenizer(artifacts: Path) -> Tokenizer:
    return Tokenizer.load(artifacts / "model")


@pytest.fixture(scope="module")
def expected(artifacts: Path, tokenizer: Tokenizer) -> list[str]:
    """Hugging Face's greedy continuations, with the weights that the engine has."""
    model = as_quantized(artifacts / "model")
    return [text_of(tokenizer, greedy_tokens(model, tokenizer.encode(prompt), NUM_TOKENS)) for prompt in PROMPTS]


def text_of(tokenizer: Tokenizer, ids: list[int]) -> str:
    """The text up to the first end token."""
    end = next((place for place, each in enumerate(ids) if each in tokenizer.eos_ids), len(ids))
    return tokenizer.decode(ids[:end])


def over_grpc(served: Served, model: str) -> Callable[[str], str]:
    def generate(prompt: str) -> str:
        with TritonClient(served.grpc) as client:
            return client.generate(prompt, max_tokens=NUM_TOKENS, model=model).text

    return generate


def over_http(served: Served, model: str) -> Callable[[str], str]:
    def generate(prompt: str) -> str:
        connection = http.client.HTTPConnection(served.http, timeout=60)
        body = json.dumps({"text_input": prompt, "max_tokens": NUM_TOKENS, "stream": True})
        connection.request("POST", f"/v2/models/{model}/generate_stream", body)
        events = [line for line in connection.getresponse().read().decode().split("\n") if line.startswith("data: ")]
        return "".join(json.loads(event.removeprefix("data: "))["text_output"] for event in events)

    return generate


def test_the_bare_engine_gives_hugging_faces_text(artifacts: Path, tokenizer: Tokenizer, expected: list[str]) -> None:
    engine = pipeline(artifacts / "engine", "accuracy")
    ids = greedy(engine, [tokenizer.encode(prompt) for prompt in PROMPTS], NUM_TOKENS)
    assert [text_of(tokenizer, each) for each in ids] == expected


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
@pytest.mark.parametrize("path", [over_grpc, over_http], ids=["grpc", "http"])
def test_the_served_text_is_hugging_faces(
    served_accuracy: Served,
    expected: list[str],
    path: Callable[[Served, str], Callable[[str], str]],
    model: str,
) -> None:
    generate = path(served_accuracy, model)
    assert [generate(prompt) for prompt in PROMPTS] == expected
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert list(pool.map(generate, PROMPTS)) == expected
