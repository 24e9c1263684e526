"""A long prompt holds up its own request only."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from slipstream.gateway.services import Models, Services
from slipstream.spec import GatewaySpec
from slipstream.text.tokenizer import Tokenizer
from tests.fakes.gateway import a_model, gateway
from tests.fakes.triton import FakeTriton, Script
from tests.unit.raw_http import Answer, ask
from tests.unit.small_tokenizers import byte_level

LONG = "word " * 20_000


class Held(Tokenizer):
    """Tokenizes when it is let."""

    def __init__(self) -> None:
        self.__dict__.update(byte_level().__dict__)
        self.begun, self.released = threading.Event(), threading.Event()

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        self.begun.set()
        assert self.released.wait(timeout=5)
        return super().encode(text, add_special_tokens=add_special_tokens)


@pytest.fixture
def held() -> Iterator[tuple[str, Held]]:
    tokenizer = Held()

    def services() -> Services:
        model = replace(a_model(triton.address), tokenizer=tokenizer)
        return Services(spec=GatewaySpec(), models=Models([model]))

    with FakeTriton({"tensorrt_llm": Script(pieces=[[5]])}) as triton, gateway(services) as url:
        yield url, tokenizer


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}]}),
        ("/v1/completions", {"prompt": LONG}),
        ("/v1/messages", {"messages": [{"role": "user", "content": LONG}], "max_tokens": 5}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": LONG}]}),
        ("/tokenize", {"prompt": LONG}),
    ],
)
def test_other_requests_are_answered_while_a_long_prompt_is_tokenized(
    held: tuple[str, Held], path: str, body: dict[str, object]
) -> None:
    url, tokenizer = held
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(ask(f"{url}{path}", {"model": "small", **body})))
    asking.start()
    assert tokenizer.begun.wait(timeout=5)
    assert ask(f"{url}/health/live").status == 200
    tokenizer.released.set()
    asking.join(timeout=10)
    assert answers[0].status in {200, 400}  # 400: it is over the context
    assert json.loads(answers[0].body)


def test_a_long_text_has_the_same_tokens_as_its_parts() -> None:
    tokenizer = byte_level()
    assert tokenizer.encode(LONG) == tokenizer.fast.encode(LONG).ids
