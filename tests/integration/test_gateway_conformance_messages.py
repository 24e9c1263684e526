"""The official Anthropic SDK against the gateway in front of the real model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
from anthropic import Anthropic, APIStatusError

from tests.conftest import DEFAULT, Served
from tests.integration.conformance.messages_rows import HELLO, REFUSED, SERVED, TOOL, MessagesRow
from tests.integration.conformance.server import conformance_gateway

BESIDE = ("temperature", "top_p", "top_k", "output_config")  # the SDK has no names for the first three any more


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Anthropic]:
    with conformance_gateway(served) as base:
        yield Anthropic(base_url=base, api_key="none", max_retries=0)


@pytest.fixture(autouse=True)
def named(record_property: Callable[[str, object], None]) -> None:
    record_property("client", f"anthropic {version('anthropic')}")


def fields_of(row: MessagesRow) -> dict[str, Any]:
    fields = {"model": DEFAULT, "messages": HELLO, "max_tokens": 8, **row.asked}
    return fields if "temperature" in fields else {**fields, "temperature": 0.0}


def ask(client: Anthropic, fields: dict[str, Any], *, stream: bool) -> Any:
    extra = {name: fields.pop(name) for name in BESIDE if name in fields}
    if not stream:
        return client.messages.create(**fields, extra_body=extra)
    with client.messages.stream(**fields, extra_body=extra) as events:
        text = "".join(events.text_stream)
        message = events.get_final_message()
    assert text == "".join(block.text for block in message.content if block.type == "text")
    return message


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("row", SERVED, ids=lambda row: row.name)
def test_a_message_is_served(client: Anthropic, row: MessagesRow, stream: bool) -> None:
    message = ask(client, fields_of(row), stream=stream)
    assert message.role == "assistant"
    assert message.stop_reason is not None
    row.judge(message)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_a_message_is_refused(
    client: Anthropic, row: MessagesRow, stream: bool, record_property: Callable[[str, object], None]
) -> None:
    record_property("deviation", ("/v1/messages", row.name, row.deviation))
    with pytest.raises(APIStatusError) as refused:
        ask(client, fields_of(row), stream=stream)
    assert refused.value.status_code == row.status
    assert refused.value.body["error"]["type"] == row.kind  # type: ignore[index]


def test_tokens_are_counted_as_they_are_billed(client: Anthropic) -> None:
    fields: dict[str, Any] = {"model": DEFAULT, "messages": HELLO, "system": "Be brief.", "tools": [TOOL]}
    counted = client.messages.count_tokens(**fields).input_tokens
    assert counted == client.messages.create(**fields, max_tokens=1).usage.input_tokens
