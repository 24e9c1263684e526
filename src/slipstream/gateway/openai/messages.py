"""The turns of a conversation as OpenAI's chat API has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from slipstream.gateway.errors import ApiError, unsupported
from slipstream.gateway.openai.requests import Text

Role = Literal["system", "developer", "user", "assistant", "tool"]


class ContentPart(BaseModel):
    """One part of a message; a model that reads text takes text."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(max_length=64)
    text: Text | None = None
    refusal: Text | None = None


class CalledFunction(BaseModel):
    """What the model called."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(max_length=128)
    arguments: Text  # JSON, as far as the model kept to it


class ToolCall(BaseModel):
    """A call that the model made in an earlier turn."""

    model_config = ConfigDict(extra="ignore")

    id: str = Field(max_length=256)
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Role
    content: Text | list[ContentPart] | None = None
    name: str | None = Field(None, max_length=64)
    tool_calls: list[ToolCall] | None = Field(None, max_length=128)
    tool_call_id: str | None = Field(None, max_length=256)
    refusal: Text | None = None
    annotations: list[dict[str, Any]] | None = None  # of an answer that is sent back; not read
    audio: None = None
    function_call: None = None

    def for_template(self) -> dict[str, Any]:
        """As chat templates read it: content is one text, and a developer is a system."""
        message: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": self._text()}
        if self.tool_calls:
            message["tool_calls"] = [call.model_dump() for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message

    def _text(self) -> str:
        if self.content is None or isinstance(self.content, str):
            return self.content or self.refusal or ""
        other = next((part.type for part in self.content if part.type not in ("text", "refusal")), None)
        if other is not None:
            raise unsupported("messages", other, "the model reads text; send parts of type text")
        return "\n".join(part.text or part.refusal or "" for part in self.content)


def check_messages(messages: Sequence[ChatMessage]) -> None:
    """Raise `ApiError` for turns that make no conversation."""
    calls: set[str] = set()
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if message.content is None and not (message.role == "assistant" and (message.tool_calls or message.refusal)):
            raise ApiError(400, f"{where}.content: is missing; a {message.role} says something", param=where)
        if message.tool_calls:
            if message.role != "assistant":
                raise ApiError(400, f"{where}.tool_calls: only the assistant calls tools", param=where)
            calls.update(call.id for call in message.tool_calls)
        if message.role == "tool" and message.tool_call_id not in calls:
            found = "is missing" if message.tool_call_id is None else f"{message.tool_call_id!r} is no earlier call"
            raise ApiError(400, f"{where}.tool_call_id: {found}; an assistant's tool_calls come first", param=where)
