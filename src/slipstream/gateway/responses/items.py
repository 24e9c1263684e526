"""The items of a response's input, and the chat that they come down to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from slipstream.gateway.errors import ApiError, unsupported
from slipstream.gateway.openai.requests import Text

_TEXT_PARTS = ("input_text", "output_text", "text", "refusal")
_LEFT_OUT = ("reasoning",)  # thoughts of another model


class Part(BaseModel):
    """One part of a content."""

    model_config = ConfigDict(extra="ignore")

    type: str = Field(max_length=64)
    text: Text | None = None
    refusal: Text | None = None


class Item(BaseModel):
    """A message, a call of a function, or what came of one; which, says its type."""

    model_config = ConfigDict(extra="ignore")

    type: str = Field("message", max_length=64)
    role: str | None = Field(None, max_length=32)
    content: Text | list[Part] | None = None
    call_id: str | None = Field(None, max_length=256)
    name: str | None = Field(None, max_length=128)
    arguments: Text | None = None
    output: Text | list[Part] | None = None


def as_messages(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Messages of OpenAI's chat API; calls that follow each other, or a text, are one turn of the assistant."""
    messages: list[dict[str, Any]] = []
    for number, item in enumerate(items):
        where = f"input[{number}]"
        if item.type == "message":
            messages.append({"role": _given(item.role, where, "role"), "content": _text(item.content, where)})
        elif item.type == "function_call":
            last = messages[-1] if messages and messages[-1]["role"] == "assistant" else None
            if last is None:
                last = {"role": "assistant", "content": ""}
                messages.append(last)
            last.setdefault("tool_calls", []).append(_call(item, where))
        elif item.type == "function_call_output":
            call_id = _given(item.call_id, where, "call_id")
            messages.append({"role": "tool", "tool_call_id": call_id, "content": _text(item.output, where)})
        elif item.type not in _LEFT_OUT:
            raise unsupported(where, item.type, "send messages, function_call and function_call_output")
    return messages


def _call(item: Item, where: str) -> dict[str, Any]:
    function = {"name": _given(item.name, where, "name"), "arguments": _given(item.arguments, where, "arguments")}
    return {"id": _given(item.call_id, where, "call_id"), "type": "function", "function": function}


def _given(value: str | None, where: str, field: str) -> str:
    if value is None:
        raise ApiError(400, f"{where}.{field}: is missing", param=f"{where}.{field}")
    return value


def _text(content: str | list[Part] | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    other = next((part.type for part in content if part.type not in _TEXT_PARTS), None)
    if other is not None:
        raise unsupported(where, other, "the model reads text; send parts of type input_text")
    return "\n".join(part.text or part.refusal or "" for part in content)
