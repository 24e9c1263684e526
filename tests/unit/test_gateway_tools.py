"""Tools through a real gateway: what the model is told, what holds it to a call, and its calls in the answer."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest

from slipstream.gateway.tools.forms import conversation, tool_form
from slipstream.spec import GatewaySpec
from slipstream.text.chat_template import ChatTemplate
from tests.fakes.gateway import gateway, services_for
from tests.fakes.triton import FakeTriton, Script
from tests.unit.small_tokenizers import byte_level
from tests.unit.test_gateway_completions import post

ARGUMENTS = '{"city": "Oslo"}'
TEXT = f'Let me look. <tool_call>{{"name": "weather", "arguments": {ARGUMENTS}}}</tool_call>'
REFERRING = {"type": "object", "properties": {"at": {"$ref": "#/$defs/Day"}}, "$defs": {"Day": {"type": "integer"}}}


@pytest.fixture(scope="module")
def triton() -> Iterator[FakeTriton]:
    with FakeTriton({"tensorrt_llm": Script(pieces=[[token] for token in byte_level().encode(TEXT)])}) as server:
        yield server


@pytest.fixture(scope="module")
def base(triton: FakeTriton) -> Iterator[str]:
    with gateway(services_for(triton.address, GatewaySpec(tool_parser="hermes"))) as url:
        yield url


def tool(name: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters or {"type": "object"}}}


def ask(base: str, **changes: Any) -> bytes:
    body = {"model": "small", "messages": [{"role": "user", "content": "rain?"}], "tools": [tool("weather")], **changes}
    return post(f"{base}/v1/chat/completions", body)


def refusal(base: str, **changes: Any) -> dict[str, Any]:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(base, **changes)
    assert refused.value.code == 400
    error: dict[str, Any] = json.load(refused.value)["error"]
    return error


def test_a_call_is_no_text(base: str) -> None:
    choice = json.loads(ask(base))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me look."
    assert [call["function"] for call in choice["message"]["tool_calls"]] == [
        {"name": "weather", "arguments": ARGUMENTS}
    ]


def test_a_stream_brings_name_and_arguments_piece_by_piece(base: str) -> None:
    events = ask(base, stream=True).decode().strip().split("\n\n")[:-1]
    choices = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "Let me look."
    assert [call["function"]["name"] for call in calls if "id" in call] == ["weather"]
    assert "".join(call["function"]["arguments"] for call in calls) == ARGUMENTS
    assert len(calls) > 3, "arguments are not held until the call is whole"
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_without_tools_the_same_text_is_text(base: str) -> None:
    for changes in ({"tools": None}, {"tool_choice": "none"}):
        assert json.loads(ask(base, **changes))["choices"][0]["message"]["content"] == TEXT


def test_a_named_tool_is_forced_by_a_guide(base: str, triton: FakeTriton) -> None:
    ask(
        base,
        tools=[tool("weather"), tool("diary", REFERRING)],
        tool_choice={"type": "function", "function": {"name": "diary"}},
    )
    inputs = triton.received[-1].inputs
    assert inputs["guided_decoding_guide_type"] == ["json_schema"]
    schema = json.loads(inputs["guided_decoding_guide"][0])
    assert schema["properties"]["name"] == {"const": "diary"}
    assert schema["properties"]["arguments"]["properties"] == {"at": {"$ref": "#/$defs/tool0_Day"}}
    assert schema["$defs"] == {"tool0_Day": {"type": "integer"}}


def test_required_leaves_the_choice_among_all_tools(base: str, triton: FakeTriton) -> None:
    ask(base, tools=[tool("weather"), tool("diary")], tool_choice="required")
    schema = json.loads(triton.received[-1].inputs["guided_decoding_guide"][0])
    assert [one["properties"]["name"]["const"] for one in schema["anyOf"]] == ["weather", "diary"]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"tools": None, "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "gone"}}}, "tool_choice"),
        ({"messages": [{"role": "tool", "tool_call_id": "call_1", "content": "wet"}]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(base: str, changes: dict[str, Any], param: str) -> None:
    assert refusal(base, **changes)["param"] == param


def test_a_model_that_knows_no_tools_refuses_them(triton: FakeTriton) -> None:
    with gateway(services_for(triton.address)) as url:
        assert refusal(url)["code"] == "unsupported_value"


def test_calls_and_their_results_reach_a_template_that_knows_them_as_objects() -> None:
    template = ChatTemplate("{{ tools }}", special_tokens={})
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    talk = conversation([{"role": "assistant", "content": "", "tool_calls": [call]}], [tool("f")], "hermes", template)
    assert talk.messages[0]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert talk.tools == [tool("f")]


def test_a_template_without_tools_is_told_in_words() -> None:
    template = ChatTemplate("{{ messages }}", special_tokens={})
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "call_1"},
    ]
    talk = conversation(messages, [tool("f")], "hermes", template)
    assert talk.tools is None
    assert talk.messages[0]["content"].startswith("Be kind.")
    assert '"name": "f"' in talk.messages[0]["content"]
    assert talk.messages[1]["content"] == '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    assert talk.messages[2] == {"role": "user", "content": "<tool_response>42</tool_response>"}


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("{% if tools %}<tool_call>{% endif %}", "hermes"),
        ("{% if tools %}{{ 'ipython' }}{% endif %}", "llama3_json"),
        ("{{ messages }}", None),
    ],
)
def test_the_template_tells_the_form(source: str, form: str | None) -> None:
    assert tool_form("auto", ChatTemplate(source, special_tokens={})) == form
    assert tool_form("none", ChatTemplate(source, special_tokens={})) is None


@pytest.mark.parametrize("strange", ["\ud800", 10**400], ids=["half a character", "a very long number"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "tools": [tool("f", {"a": 0})]}),
        ("/v1/responses", {"input": "a", "tools": [{"type": "function", "name": "f", "parameters": {"a": 0}}]}),
        ("/v1/responses", {"input": "a", "text": {"format": {"type": "json_schema", "schema": {"a": 0}}}}),
        (
            "/v1/messages",
            {
                "messages": [{"role": "user", "content": "a"}],
                "max_tokens": 5,
                "tools": [{"name": "f", "input_schema": {"a": 0}}],
            },
        ),
    ],
)
def test_json_that_cannot_be_written_again_is_refused(base: str, path: str, body: dict[str, Any], strange: Any) -> None:
    text = json.dumps({"model": "small", **body}).replace('{"a": 0}', json.dumps({"a": strange}))
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(base + path, json.loads(text))
    assert refused.value.code == 400


@pytest.mark.parametrize("parameters", [{"$defs": [1]}, {"type": "object", "$defs": "x"}])
def test_definitions_that_are_none_are_refused(base: str, parameters: dict[str, Any]) -> None:
    assert refusal(base, tools=[tool("f", parameters)], tool_choice="required")["param"] == "tools"


def test_earlier_arguments_with_half_a_character_are_told_as_they_came(base: str) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"a": "\\ud800"}'}}
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "x"},
    ]
    assert json.loads(ask(base, messages=turns))["choices"]
