"""What the official OpenAI SDK must be able to do with the Responses API behind the gateway."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

TOOL = {
    "type": "function",
    "name": "weather",
    "description": "The weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
YES = {"type": "object", "properties": {"answer": {"enum": ["yes", "no"]}}, "required": ["answer"]}


@dataclass(frozen=True, kw_only=True)
class ResponsesRow:
    """One request; without a status it must be answered."""

    name: str
    asked: dict[str, Any] = field(default_factory=dict)
    judge: Callable[[Any], None] = lambda response: None
    status: int | None = None
    said: str = ""
    deviation: str = ""


def _is_cut(response: Any) -> None:
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage.output_tokens == 6


def _is_text(response: Any) -> None:
    assert response.output_text
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def _is_yes_or_no(response: Any) -> None:
    assert json.loads(response.output_text)["answer"] in ("yes", "no")


def _calls(response: Any) -> None:
    (item,) = response.output
    assert (item.type, item.name) == ("function_call", "weather")
    assert json.loads(item.arguments)["city"] in ("Paris", "Oslo")


def _has_log_probs(response: Any) -> None:
    assert response.output[0].content[0].logprobs


def _form(kind: str, **fields: Any) -> dict[str, Any]:
    return {"text": {"format": {"type": kind, **fields}}, "max_output_tokens": 30}


def _items(*items: dict[str, Any]) -> dict[str, Any]:
    return {"input": list(items)}


CALL = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Oslo"}'}
RESULT = {"type": "function_call_output", "call_id": "call_1", "output": "rain"}
USER = {"role": "user", "content": "Say hello."}

SERVED = [
    ResponsesRow(name="a text", judge=_is_text),
    ResponsesRow(name="a cut text", asked={"max_output_tokens": 6}, judge=_is_cut),
    ResponsesRow(name="instructions", asked={"instructions": "Be brief."}, judge=_is_text),
    ResponsesRow(name="items", asked=_items({"role": "developer", "content": "Be brief."}, USER), judge=_is_text),
    ResponsesRow(
        name="content in parts",
        asked=_items({"role": "user", "content": [{"type": "input_text", "text": "Say hello."}]}),
        judge=_is_text,
    ),
    ResponsesRow(name="temperature and top_p", asked={"temperature": 0.7, "top_p": 0.9}, judge=_is_text),
    ResponsesRow(name="JSON mode", asked=_form("json_object")),
    ResponsesRow(name="a JSON schema", asked=_form("json_schema", name="answer", schema=YES), judge=_is_yes_or_no),
    ResponsesRow(name="functions that may be called", asked={"tools": [TOOL]}),
    ResponsesRow(
        name="a function is required",
        asked={"tools": [TOOL], "tool_choice": "required", "max_output_tokens": 40},
        judge=_calls,
    ),
    ResponsesRow(
        name="a named function",
        asked={"tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}, "max_output_tokens": 40},
        judge=_calls,
    ),
    ResponsesRow(name="what came of a call", asked={**_items(USER, CALL, RESULT), "tools": [TOOL]}),
    ResponsesRow(name="log-probabilities", asked={"include": ["message.output_text.logprobs"]}, judge=_has_log_probs),
    ResponsesRow(name="metadata and a user", asked={"metadata": {"a": "b"}, "user": "somebody"}, judge=_is_text),
    ResponsesRow(name="store false", asked={"store": False}, judge=_is_text),
]
REFUSED = [
    ResponsesRow(name="an unknown model", asked={"model": "gpt-9"}, status=404, said="gpt-9"),
    ResponsesRow(name="temperature 3", asked={"temperature": 3}, status=400, said="temperature"),
    ResponsesRow(
        name="an unknown earlier response", asked={"previous_response_id": "resp_0"}, status=400, said="resp_0"
    ),
    ResponsesRow(name="a result without a call", asked=_items(RESULT), status=400, said="tool_call_id"),
    ResponsesRow(
        name="background",
        asked={"background": True},
        status=400,
        said="background",
        deviation="an answer is given up when its client leaves",
    ),
    ResponsesRow(
        name="truncation auto",
        asked={"truncation": "auto"},
        status=400,
        said="truncation",
        deviation="what may be left out only the caller knows; the refusal says by how much the input is too long",
    ),
    ResponsesRow(
        name="reasoning",
        asked={"reasoning": {"effort": "high"}},
        status=400,
        said="reasoning",
        deviation="the model does not think aloud",
    ),
    ResponsesRow(
        name="a tool that the server runs",
        asked={"tools": [{"type": "web_search"}]},
        status=400,
        said="web_search",
        deviation="the gateway runs no tools",
    ),
    ResponsesRow(
        name="a conversation",
        asked={"conversation": "conv_1"},
        status=400,
        said="conversation",
        deviation="responses are continued by previous_response_id, kept in memory for a while",
    ),
    ResponsesRow(
        name="top_logprobs of a response",
        asked={"top_logprobs": 5},
        status=400,
        said="top_logprobs",
        deviation="the engine gives the log-probability of the chosen token alone",
    ),
    ResponsesRow(
        name="an image in the input",
        asked=_items({"role": "user", "content": [{"type": "input_image", "image_url": "https://example.com/a.png"}]}),
        status=400,
        said="input_image",
        deviation="the model reads text",
    ),
]
