"""What every client of OpenAI's chat API must be able to do: a request, and what its answer must be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.integration.conformance.replies import Reply

Judge = Callable[[Reply, Callable[[], Reply]], None]  # the reply, and how to ask the same again
HELLO = [{"role": "user", "content": "Say hello."}]
COUNT = [{"role": "user", "content": "Count: one, two, three, four, five, six, seven, eight."}]
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]}}, "required": ["city"]}
DAY = {
    "type": "object",
    "properties": {"day": {"$ref": "#/$defs/Day"}},
    "required": ["day"],
    "$defs": {"Day": {"enum": ["Monday", "Friday"]}},
}
YES = {"type": "object", "properties": {"answer": {"enum": ["yes", "no"]}}, "required": ["answer"]}


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": f"The {name}.", "parameters": parameters}}


WEATHER, DIARY = tool("weather", CITY), tool("diary", DAY)
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
ROUND_TRIP = [
    *HELLO,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One request; without a status it must be answered."""

    name: str
    asked: dict[str, Any] = field(default_factory=dict)
    judge: Judge = lambda reply, again: None
    status: int | None = None  # of the refusal
    said: str = ""  # a word of the refusal
    deviation: str = ""  # OpenAI answers, and why this does not
    not_streamed: bool = False
    not_for: tuple[str, ...] = ()


def _is_short(reply: Reply, again: Callable[[], Reply]) -> None:
    assert reply.text
    assert reply.finish == "length"
    assert reply.output_tokens == 4
    assert reply.input_tokens is not None
    assert reply.input_tokens > 4


def _is_repeatable(reply: Reply, again: Callable[[], Reply]) -> None:
    assert reply.text == again().text


def _has_no_comma(reply: Reply, again: Callable[[], Reply]) -> None:
    assert "," not in reply.text


def _has_two(reply: Reply, again: Callable[[], Reply]) -> None:
    assert len(reply.texts) == 2


def _has_log_probs(reply: Reply, again: Callable[[], Reply]) -> None:
    assert reply.log_probs >= 4


def _is_yes_or_no(reply: Reply, again: Callable[[], Reply]) -> None:
    assert json.loads(reply.text)["answer"] in ("yes", "no")


def _begins_as_json(reply: Reply, again: Callable[[], Reply]) -> None:
    assert reply.text.lstrip()[0] in "{["


def _calls(name: str, key: str, *values: str) -> Judge:
    def judge(reply: Reply, again: Callable[[], Reply]) -> None:
        assert [call["name"] for call in reply.calls] == [name]
        assert reply.calls[0]["arguments"][key] in values
        assert reply.finish == "tool_calls"

    return judge


def _calls_one(reply: Reply, again: Callable[[], Reply]) -> None:
    assert len(reply.calls) == 1
    assert reply.calls[0]["name"] in ("weather", "diary")


def _calls_none(reply: Reply, again: Callable[[], Reply]) -> None:
    assert reply.calls == []
    assert reply.text


def _is_text(reply: Reply, again: Callable[[], Reply]) -> None:
    assert reply.text


def _named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def _user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 4}


SERVED = [
    Row(name="a short answer", asked={"max_tokens": 4}, judge=_is_short),
    Row(name="max_completion_tokens", asked={"max_completion_tokens": 4}, judge=_is_short),
    Row(
        name="a system message",
        asked={"messages": [{"role": "system", "content": "Be brief."}, *HELLO]},
        judge=_is_text,
    ),
    Row(
        name="a developer message",
        asked={"messages": [{"role": "developer", "content": "Hi."}, *HELLO]},
        judge=_is_text,
    ),
    Row(
        name="several turns",
        asked={"messages": [*HELLO, {"role": "assistant", "content": "Hello."}, *COUNT]},
        judge=_is_text,
    ),
    Row(name="content in parts", asked=_user([{"type": "text", "text": "Say"}, {"type": "text", "text": "hi"}])),
    Row(name="scripts and emoji", asked=_user('Здравствуй 你好 👩‍👩‍👧‍👦 \u0000 \\ " é'), judge=_is_text),
    Row(name="temperature 0", asked={"temperature": 0}, judge=_is_repeatable),
    Row(name="a seed", asked={"temperature": 1, "seed": 7}, judge=_is_repeatable),
    Row(name="top_p", asked={"top_p": 0.5, "seed": 1}, judge=_is_text),
    Row(name="a stop string", asked={"messages": COUNT, "stop": ",", "max_tokens": 24}, judge=_has_no_comma),
    Row(name="stop strings", asked={"messages": COUNT, "stop": [",", ";"], "max_tokens": 24}, judge=_has_no_comma),
    Row(name="presence_penalty", asked={"presence_penalty": 1.0}, judge=_is_text),
    Row(name="frequency_penalty", asked={"frequency_penalty": 0.5}, judge=_is_text),
    Row(name="two choices", asked={"n": 2, "temperature": 1}, judge=_has_two, not_for=("langchain",)),
    Row(name="log-probabilities", asked={"logprobs": True, "max_tokens": 4}, judge=_has_log_probs),
    Row(name="JSON mode", asked={"response_format": {"type": "json_object"}}, judge=_begins_as_json),
    Row(name="a JSON schema", asked={"response_format": _schema(YES), "max_tokens": 30}, judge=_is_yes_or_no),
    Row(
        name="response_format text",
        asked={"response_format": {"type": "text"}},
        judge=_is_text,
        not_for=("langchain",),  # it takes every response_format for a schema to parse
    ),
    Row(name="tools that may be called", asked={"tools": [WEATHER], "tool_choice": "auto"}),
    Row(
        name="a named tool",
        asked={"tools": [WEATHER, DIARY], "tool_choice": _named("weather"), "max_tokens": 40},
        judge=_calls("weather", "city", "Paris", "Oslo"),
    ),
    Row(
        name="a tool whose schema refers",
        asked={"tools": [DIARY], "tool_choice": "required", "max_tokens": 40},
        judge=_calls("diary", "day", "Monday", "Friday"),
    ),
    Row(
        name="a tool is required",
        asked={"tools": [WEATHER, DIARY], "tool_choice": "required", "max_tokens": 40},
        judge=_calls_one,
    ),
    Row(
        name="one tool at a time",
        asked={"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 40},
        judge=_calls_one,
    ),
    Row(name="tool_choice none", asked={"tools": [WEATHER], "tool_choice": "none"}, judge=_calls_none),
    Row(name="a result of a tool", asked={"messages": ROUND_TRIP, "tools": [WEATHER]}),
    Row(name="a user", asked={"user": "somebody"}, judge=_is_text),
    Row(name="store false", asked={"store": False}, judge=_is_text),
    Row(name="top_k beside OpenAI's fields", asked={"extra_body": {"top_k": 5}}, judge=_is_text),
]
REFUSED = [
    Row(name="an unknown model", asked={"model": "gpt-9"}, status=404, said="gpt-9"),
    Row(name="temperature 3", asked={"temperature": 3}, status=400, said="temperature"),
    Row(name="max_tokens 0", asked={"max_tokens": 0}, status=400, said="tokens"),
    Row(name="five stop strings", asked={"stop": ["a", "b", "c", "d", "e"]}, status=400, said="stop"),
    Row(name="too many choices", asked={"n": 129}, status=400, said="n"),
    Row(name="a prompt that is too long", asked=_user("word " * 9000), status=400, said="shorten"),
    Row(name="an unknown field", asked={"extra_body": {"nonsense": 1}}, status=400, said="nonsense"),
    Row(
        name="an unknown tool is named",
        asked={"tools": [WEATHER], "tool_choice": _named("gone")},
        status=400,
        said="gone",
    ),
    Row(
        name="a result without a call",
        asked={"messages": [*HELLO, {"role": "tool", "tool_call_id": "x", "content": "rain"}]},
        status=400,
        said="tool_call_id",
    ),
    Row(
        name="a schema is missing",
        asked={"extra_body": {"response_format": {"type": "json_schema"}}},
        status=400,
        said="json_schema",
    ),
    Row(
        name="top_logprobs",
        asked={"logprobs": True, "top_logprobs": 5},
        status=400,
        said="top_logprobs",
        deviation="the engine gives the log-probability of the chosen token alone",
    ),
    Row(
        name="logit_bias",
        asked={"logit_bias": {"50": 5}},
        status=400,
        said="logit_bias",
        deviation="the engine has no bias on logits",
    ),
    Row(
        name="an image",
        asked=_user([{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]),
        status=400,
        said="image_url",
        deviation="the model reads text",
    ),
    Row(
        name="a schema beside tools that may be called",
        asked={"tools": [WEATHER], "response_format": _schema(YES)},
        status=400,
        said="response_format",
        deviation="one guide holds the whole text, and a call would not fit the schema",
        not_for=("langchain",),  # it refuses tools that are not strict by itself
    ),
    Row(
        name="reasoning_effort",
        asked={"extra_body": {"reasoning_effort": "high"}},
        status=400,
        said="reasoning_effort",
        deviation="the model does not think aloud",
    ),
]
