"""What the official Anthropic SDK must be able to do with a model behind the gateway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

HELLO = [{"role": "user", "content": "Say hello."}]
TOOL = {
    "name": "weather",
    "description": "The weather.",
    "input_schema": {"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]}}, "required": ["city"]},
}
ROUND_TRIP = [
    *HELLO,
    {
        "role": "assistant",
        "content": [{"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}],
    },
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "rain"}]},
]
YES = {"type": "object", "properties": {"answer": {"enum": ["yes", "no"]}}, "required": ["answer"]}


@dataclass(frozen=True, kw_only=True)
class MessagesRow:
    """One request; without a status it must be answered."""

    name: str
    asked: dict[str, Any] = field(default_factory=dict)
    judge: Callable[[Any], None] = lambda message: None
    status: int | None = None
    kind: str = ""  # of the refusal
    deviation: str = ""  # Anthropic answers, and why this does not


def _is_cut(message: Any) -> None:
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 6
    assert message.usage.input_tokens > 4


def _is_text(message: Any) -> None:
    assert message.content[0].type == "text"
    assert message.content[0].text


def _is_stopped(message: Any) -> None:
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", ",")
    assert "," not in message.content[0].text


def _calls(message: Any) -> None:
    (block,) = message.content
    assert (block.type, block.name, message.stop_reason) == ("tool_use", "weather", "tool_use")
    assert block.input["city"] in ("Paris", "Oslo")


def _calls_nothing(message: Any) -> None:
    assert all(block.type == "text" for block in message.content)


def _is_yes_or_no(message: Any) -> None:
    assert '"answer"' in message.content[0].text


def _user(*content: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(content)}]}


SERVED = [
    MessagesRow(name="a short message", asked={"max_tokens": 6}, judge=_is_cut),
    MessagesRow(name="a system text", asked={"system": "Be brief."}, judge=_is_text),
    MessagesRow(
        name="a system in blocks",
        asked={"system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]},
        judge=_is_text,
    ),
    MessagesRow(name="content in blocks", asked=_user({"type": "text", "text": "Say hello."}), judge=_is_text),
    MessagesRow(
        name="several turns",
        asked={"messages": [*HELLO, {"role": "assistant", "content": "Hello."}, *HELLO]},
        judge=_is_text,
    ),
    MessagesRow(
        name="a stop sequence",
        asked={
            "messages": [{"role": "user", "content": "Write the list: one, two, three, four, five"}],
            "stop_sequences": [","],
            "max_tokens": 60,
        },
        judge=_is_stopped,
    ),
    MessagesRow(
        name="temperature, top_p and top_k", asked={"temperature": 0.5, "top_p": 0.9, "top_k": 5}, judge=_is_text
    ),
    MessagesRow(name="metadata", asked={"metadata": {"user_id": "somebody"}}, judge=_is_text),
    MessagesRow(name="thinking disabled", asked={"thinking": {"type": "disabled"}}, judge=_is_text),
    MessagesRow(name="tools that may be used", asked={"tools": [TOOL]}),
    MessagesRow(
        name="any tool", asked={"tools": [TOOL], "tool_choice": {"type": "any"}, "max_tokens": 40}, judge=_calls
    ),
    MessagesRow(
        name="a named tool, one at a time",
        asked={
            "tools": [TOOL],
            "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
            "max_tokens": 40,
        },
        judge=_calls,
    ),
    MessagesRow(name="no tool", asked={"tools": [TOOL], "tool_choice": {"type": "none"}}, judge=_calls_nothing),
    MessagesRow(name="a result of a tool", asked={"messages": ROUND_TRIP, "tools": [TOOL]}),
    MessagesRow(
        name="a schema of the output",
        asked={"output_config": {"format": {"type": "json_schema", "schema": YES}}, "max_tokens": 30},
        judge=_is_yes_or_no,
    ),
]
REFUSED = [
    MessagesRow(name="an unknown model", asked={"model": "no-such-model"}, status=404, kind="not_found_error"),
    MessagesRow(name="max_tokens 0", asked={"max_tokens": 0}, status=400, kind="invalid_request_error"),
    MessagesRow(name="temperature 2", asked={"temperature": 2.0}, status=400, kind="invalid_request_error"),
    MessagesRow(name="no messages", asked={"messages": []}, status=400, kind="invalid_request_error"),
    MessagesRow(
        name="a prompt that is too long",
        asked=_user({"type": "text", "text": "word " * 9000}),
        status=400,
        kind="invalid_request_error",
    ),
    MessagesRow(
        name="an image",
        asked=_user({"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}),
        status=400,
        kind="invalid_request_error",
        deviation="the model reads text",
    ),
    MessagesRow(
        name="thinking",
        asked={"thinking": {"type": "enabled", "budget_tokens": 1024}},
        status=400,
        kind="invalid_request_error",
        deviation="the model does not think aloud",
    ),
    MessagesRow(
        name="a last turn of the assistant",
        asked={"messages": [*HELLO, {"role": "assistant", "content": "Hel"}]},
        status=400,
        kind="invalid_request_error",
        deviation="chat templates end every turn",
    ),
    MessagesRow(
        name="a tool that the server runs",
        asked={"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        status=400,
        kind="invalid_request_error",
        deviation="the gateway runs no tools",
    ),
]
