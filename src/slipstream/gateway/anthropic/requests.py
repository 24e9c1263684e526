"""What clients of Anthropic's Messages API send, and the chat that it comes down to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from slipstream.gateway.errors import ApiError, unsupported
from slipstream.gateway.json_values import JsonObject
from slipstream.gateway.openai.chat import ChatRequest, chat_request
from slipstream.gateway.openai.requests import MOST_STOPS, Text

_FIELD_LIMIT = 256


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")  # cache_control and citations ask for nothing that is answered


class TextBlock(_Part):
    """Text."""

    type: Literal["text"]
    text: Text


class ToolUse(_Part):
    """A call that the assistant made."""

    type: Literal["tool_use"]
    id: str = Field(max_length=_FIELD_LIMIT)
    name: str = Field(max_length=128)
    input: JsonObject


class ToolResult(_Part):
    """What came of a call."""

    type: Literal["tool_result"]
    tool_use_id: str = Field(max_length=_FIELD_LIMIT)
    content: Text | list[TextBlock] | None = None
    is_error: bool = False


class Thinking(_Part):
    """Thoughts of another model, which are left out."""

    type: Literal["thinking", "redacted_thinking"]


class UnservedBlock(_Part):
    """What the model cannot read."""

    type: Literal["image", "document", "search_result"]


Block = Annotated[TextBlock | ToolUse | ToolResult | Thinking | UnservedBlock, Field(discriminator="type")]


class Turn(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant"]
    content: Text | list[Block]

    def as_chat(self) -> Iterator[dict[str, Any]]:
        """The turn as messages of OpenAI's form: results of tools first, each in a message of its own."""
        if isinstance(self.content, str):
            yield {"role": self.role, "content": self.content}
            return
        blocks = self.content
        for block in blocks:
            if isinstance(block, UnservedBlock):
                raise unsupported("messages", block.type, "the model reads text; send blocks of type text")
            if isinstance(block, ToolResult):
                content = ("Error: " if block.is_error else "") + _text(block.content)
                yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}
        text = "\n".join(block.text for block in blocks if isinstance(block, TextBlock))
        calls = [_call(block) for block in blocks if isinstance(block, ToolUse)]
        if calls:
            yield {"role": self.role, "content": text, "tool_calls": calls}
        elif text or not any(isinstance(block, ToolResult) for block in blocks):
            yield {"role": self.role, "content": text}


class AnthropicTool(BaseModel):
    """A tool of the caller's."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["custom"] | None = None
    name: str = Field(max_length=64)
    description: str | None = Field(None, max_length=100_000)
    input_schema: JsonObject


class AnthropicToolChoice(BaseModel):
    """Whether and which tool the model calls."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = Field(None, max_length=64)
    disable_parallel_tool_use: bool = False


class ThinkingSetting(BaseModel):
    """Whether the model thinks before it answers."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(max_length=64)


class OutputFormat(BaseModel):
    """A schema that the text must fit."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    type: Literal["json_schema"]
    body: JsonObject = Field(alias="schema")


class OutputConfig(BaseModel):
    """The form of the output."""

    model_config = ConfigDict(extra="forbid")

    format: OutputFormat | None = None


class CountRequest(BaseModel):
    """The body of `/v1/messages/count_tokens`."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=_FIELD_LIMIT)
    messages: list[Turn] = Field(min_length=1, max_length=4096)
    system: Text | list[TextBlock] | None = None
    tools: list[AnthropicTool] | None = Field(None, max_length=128)
    tool_choice: AnthropicToolChoice | None = None
    thinking: ThinkingSetting | None = None
    output_config: OutputConfig | None = None

    def as_chat(self) -> ChatRequest:
        """The chat that answers this."""
        return chat_request(self._fields())

    def _fields(self) -> dict[str, Any]:
        if self.thinking is not None and self.thinking.type not in ("disabled", "adaptive"):
            raise unsupported("thinking", self.thinking.type, "the model does not think aloud; leave it out")
        if self.messages[-1].role == "assistant":
            raise unsupported("messages", "a last turn of the assistant", "end with one of the user")
        system = [] if self.system is None else [{"role": "system", "content": _text(self.system)}]
        fields: dict[str, Any] = {
            "model": self.model,
            "messages": system + [message for turn in self.messages for message in turn.as_chat()],
        }
        if self.tools:
            fields |= {"tools": [_tool(tool) for tool in self.tools], **self._choice()}
        if self.output_config is not None and self.output_config.format is not None:
            schema = {"name": "output", "schema": self.output_config.format.body}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        return fields

    def _choice(self) -> dict[str, Any]:
        choice = self.tool_choice
        if choice is None:
            return {}
        if choice.type == "tool" and choice.name is None:
            raise ApiError(400, "tool_choice.name: is missing", param="tool_choice")
        named = {"type": "function", "function": {"name": choice.name}}
        wanted = named if choice.type == "tool" else "required" if choice.type == "any" else choice.type
        return {"tool_choice": wanted, "parallel_tool_calls": not choice.disable_parallel_tool_use}


class MessagesRequest(CountRequest):
    """The body of `/v1/messages`."""

    max_tokens: int = Field(ge=1, le=2**31 - 1)
    stream: bool = False
    stop_sequences: list[Text] | None = Field(None, max_length=MOST_STOPS)
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, le=2**31 - 1)
    metadata: dict[str, Any] | None = Field(None, max_length=16)
    service_tier: Literal["auto", "standard_only"] | None = None

    def _fields(self) -> dict[str, Any]:
        return {
            **super()._fields(),
            "max_tokens": self.max_tokens,
            "stream": self.stream,
            "stop": self.stop_sequences,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
        }


def _text(content: str | list[TextBlock] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(block.text for block in content)


def _call(block: ToolUse) -> dict[str, Any]:
    arguments = json.dumps(block.input, ensure_ascii=False)
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": arguments}}


def _tool(tool: AnthropicTool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    return {"type": "function", "function": function}
