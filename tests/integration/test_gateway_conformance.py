"""The official clients against the gateway in front of the real model: one table, each row with every client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import DEFAULT, ROOT, Served
from tests.integration.conformance.chat_rows import HELLO, REFUSED, SERVED, Row
from tests.integration.conformance.clients import (
    ChatClient,
    LangChainClient,
    LiteLlmClient,
    OpenAiClient,
    RefusedError,
)
from tests.integration.conformance.server import conformance_gateway

CLIENTS = ("openai", "langchain", "litellm")
LITELLM = ROOT / "build" / "peers" / "litellm-client" / "bin" / "python"


@pytest.fixture(scope="module")
def base(served: Served) -> Iterator[str]:
    with conformance_gateway(served) as url:
        yield url


@pytest.fixture(scope="module")
def clients(base: str) -> Iterator[dict[str, ChatClient]]:
    made: dict[str, ChatClient] = {
        "openai": OpenAiClient(base, DEFAULT),
        "langchain": LangChainClient(base, DEFAULT),
    }
    if LITELLM.exists():
        made["litellm"] = LiteLlmClient(LITELLM, base, DEFAULT)
    yield made
    if isinstance(litellm := made.get("litellm"), LiteLlmClient):
        litellm.close()


Record = Callable[[str, object], None]


def client_of(clients: dict[str, ChatClient], name: str, record_property: Record) -> ChatClient:
    if name not in clients:
        pytest.skip(f"{LITELLM.relative_to(ROOT)} is missing: LiteLLM has an environment of its own")
    record_property("client", f"{name} {clients[name].version}")
    return clients[name]


def fields_of(row: Row) -> dict[str, Any]:
    asked = {"messages": HELLO, "temperature": 0, **row.asked}
    return asked if "max_tokens" in asked or "max_completion_tokens" in asked else {**asked, "max_tokens": 8}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("row", SERVED, ids=lambda row: row.name)
def test_chat_is_served(
    clients: dict[str, ChatClient], row: Row, name: str, stream: bool, record_property: Record
) -> None:
    client = client_of(clients, name, record_property)
    if name in row.not_for:
        pytest.skip(f"{name} does not offer it")
    asked = fields_of(row)
    reply = client.ask(asked, stream=stream)
    assert reply.finish is not None
    assert reply.output_tokens
    if stream and len(reply.text) > 12:
        assert reply.pieces > 1
    row.judge(reply, lambda: client.ask(asked, stream=stream))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_chat_is_refused(
    clients: dict[str, ChatClient], row: Row, name: str, stream: bool, record_property: Record
) -> None:
    client = client_of(clients, name, record_property)
    if name in row.not_for:
        pytest.skip(f"{name} does not offer it")
    record_property("deviation", ("/v1/chat/completions", row.name, row.deviation))
    with pytest.raises(RefusedError, match=row.said) as refused:
        client.ask(fields_of(row), stream=stream)
    assert refused.value.status == row.status
