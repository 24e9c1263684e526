"""Anthropic's Messages API through a real gateway in front of a Triton that plays scripts."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest

from slipstream.spec import GatewaySpec
from tests.fakes.gateway import gateway, services_for
from tests.fakes.triton import FakeTriton, Script
from tests.unit.small_tokenizers import byte_level
from tests.unit.test_gateway_completions import post

ARGUMENTS = '{"city": "Oslo"}'
TEXT = f'Let me look. <tool_call>{{"name": "weather", "arguments": {ARGUMENTS}}}</tool_call>'
TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    pieces = [[token] for token in byte_level().encode(TEXT)]
    spec = GatewaySpec(tool_parser="hermes")
    with (
        FakeTriton({"tensorrt_llm": Script(pieces=pieces)}) as triton,
        gateway(services_for(triton.address, spec)) as url,
    ):
        yield url


def ask(base: str, path: str = "/v1/messages", **changes: Any) -> bytes:
    body = {"model": "small", "messages": [{"role": "user", "content": "rain?"}], "max_tokens": 500, **changes}
    return post(base + path, body)


def test_a_message_is_text_and_the_reason_of_its_end(base: str) -> None:
    message = json.loads(ask(base))
    assert message["content"] == [{"type": "text", "text": TEXT}]
    assert message["stop_reason"] == "end_turn"
    assert message["usage"]["output_tokens"] == len(byte_level().encode(TEXT))


def test_a_stop_sequence_is_named(base: str) -> None:
    message = json.loads(ask(base, stop_sequences=["look"]))
    assert message["content"] == [{"type": "text", "text": "Let me "}]
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "look")


def test_a_call_is_a_block(base: str) -> None:
    message = json.loads(ask(base, tools=[TOOL]))
    assert [block["type"] for block in message["content"]] == ["text", "tool_use"]
    assert message["content"][1]["input"] == {"city": "Oslo"}
    assert message["stop_reason"] == "tool_use"


def test_a_stream_builds_the_same_message(base: str) -> None:
    blocks: list[dict[str, Any]] = []
    kinds = []
    for event in ask(base, tools=[TOOL], stream=True).decode().strip().split("\n\n"):
        kind, data = (line.split(": ", 1)[1] for line in event.split("\n"))
        content = json.loads(data)
        assert content["type"] == kind
        if kind == "content_block_start":
            assert content["index"] == len(blocks)
            blocks.append({"type": content["content_block"]["type"], "text": ""})
        elif kind == "content_block_delta":
            blocks[content["index"]]["text"] += content["delta"].get("text", content["delta"].get("partial_json"))
        kinds.append(kind)
    assert blocks == [{"type": "text", "text": "Let me look."}, {"type": "tool_use", "text": ARGUMENTS}]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    assert kinds.count("content_block_stop") == 2


def test_results_of_tools_and_the_system_reach_the_model(base: str) -> None:
    turns = [
        {"role": "user", "content": "rain?"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "wet"}]},
    ]
    body = {"model": "small", "messages": turns, "system": [{"type": "text", "text": "Be brief."}], "tools": [TOOL]}
    counted = json.loads(post(f"{base}/v1/messages/count_tokens", body))["input_tokens"]
    answered = json.loads(post(f"{base}/v1/messages", {**body, "max_tokens": 1}))["usage"]["input_tokens"]
    assert counted == answered > 50


@pytest.mark.parametrize(
    ("changes", "status", "kind"),
    [
        ({"model": "no-such-model"}, 404, "not_found_error"),
        ({"max_tokens": 0}, 400, "invalid_request_error"),
        ({"messages": [{"role": "assistant", "content": "Yes,"}]}, 400, "invalid_request_error"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, 400, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, 400, "invalid_request_error"),
    ],
)
def test_refusals_are_in_anthropics_form(base: str, changes: dict[str, Any], status: int, kind: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(base, **changes)
    assert refused.value.code == status
    body = json.load(refused.value)
    assert body["type"] == "error"
    assert body["error"]["type"] == kind
    assert body["request_id"].startswith("req_")
