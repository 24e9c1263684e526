"""One question to a gateway in a terminal, as `up --ask` asks it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from slipstream.client.gateway_chat import KeyNeededError, ask_gateway
from slipstream.errors import SlipstreamError
from slipstream.gateway.keys import Grant, KeyFile
from slipstream.gateway.security import Security
from slipstream.spec import GatewaySpec, SecuritySpec
from tests.fakes.gateway import gateway, services_for
from tests.fakes.triton import FakeTriton, Script
from tests.unit.small_tokenizers import byte_level

TEXT = "The quick brown fox"
PIECES = [[token] for token in byte_level().encode(TEXT)]
QUESTION = [{"role": "user", "content": "fox?"}]


def asked(script: Script, *, max_tokens: int = 50, model: str = "small", question: object = QUESTION) -> str:
    out = io.StringIO()
    with FakeTriton({"tensorrt_llm": script}) as triton, gateway(services_for(triton.address)) as url:
        ask_gateway(url, model, question, max_tokens, out)  # type: ignore[arg-type]
    return out.getvalue()


def test_the_answer_is_streamed_and_summed_up() -> None:
    text, summary = asked(Script(pieces=PIECES, delay_s=0.001)).splitlines()
    assert text == TEXT
    assert summary.startswith(f"  {len(PIECES)} tokens · TTFT ")
    assert summary.endswith(" tok/s")


def test_an_answer_that_was_cut_says_so() -> None:
    assert asked(Script(pieces=PIECES), max_tokens=len(PIECES)).endswith("cut at max_tokens\n")


def test_a_refusal_is_one_message_with_its_reason() -> None:
    with pytest.raises(SlipstreamError, match="refused with 404: model: there is no 'other' here"):
        asked(Script(pieces=PIECES), model="other")


def test_an_answer_that_breaks_off_is_an_error() -> None:
    with pytest.raises(SlipstreamError, match="the answer broke off"):
        asked(Script(pieces=PIECES, error="the engine is gone"))


def test_nothing_listens_there() -> None:
    with pytest.raises(SlipstreamError, match="does not answer as it should"):
        ask_gateway("http://127.0.0.1:9", "small", QUESTION, 5, io.StringIO())


def test_a_gateway_with_keys_wants_one(tmp_path: Path) -> None:
    KeyFile(tmp_path / "keys.json").add("ada", Grant())
    settings = SecuritySpec(keys_file="keys.json")
    with (
        FakeTriton({"tensorrt_llm": Script(pieces=PIECES)}) as triton,
        gateway(
            lambda: replace(
                services_for(triton.address, GatewaySpec(security=settings))(),
                security=Security.open(settings, root=tmp_path),
            )
        ) as url,
        pytest.raises(KeyNeededError),
    ):
        ask_gateway(url, "small", QUESTION, 5, io.StringIO())
