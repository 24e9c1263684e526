"""Chat and plain completions through a real gateway in front of a Triton that plays scripts."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.gateway import gateway, services_for
from tests.fakes.triton import FakeTriton, Script
from tests.unit.small_tokenizers import byte_level

TEXT = "The quick brown fox"


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    pieces = [[token] for token in byte_level().encode(TEXT)]
    with FakeTriton({"tensorrt_llm": Script(pieces=pieces)}) as triton, gateway(services_for(triton.address)) as url:
        yield url


def post(url: str, body: dict[str, Any]) -> bytes:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        content: bytes = answer.read()
    return content


def chat(**changes: Any) -> dict[str, Any]:
    return {"model": "small", "messages": [{"role": "user", "content": "fox?"}], "max_tokens": 50, **changes}


def test_a_chat_is_answered_whole(base: str) -> None:
    answer = json.loads(post(f"{base}/v1/chat/completions", chat()))
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": TEXT, "refusal": None}
    assert answer["usage"]["completion_tokens"] == len(byte_level().encode(TEXT))


def test_a_stream_brings_the_same_text_and_ends_with_done(base: str) -> None:
    events = post(f"{base}/v1/chat/completions", chat(stream=True)).decode().strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    pieces = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events[:-1]]
    assert "".join(piece.get("content") or "" for piece in pieces) == TEXT


def test_an_unknown_model_is_refused_as_openai_does(base: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(f"{base}/v1/chat/completions", chat(model="gpt-9"))
    assert refused.value.code == 404
    assert json.load(refused.value)["error"]["code"] == "model_not_found"
