"""What clients of the Responses API send."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from slipstream.gateway.errors import ApiError, unsupported
from slipstream.gateway.json_values import JsonObject, Labels
from slipstream.gateway.openai.chat import ChatRequest, chat_request
from slipstream.gateway.openai.requests import StreamOptions, Text
from slipstream.gateway.responses.items import Item, as_messages

_LOG_PROBS = "message.output_text.logprobs"
_NOTHING_TO_INCLUDE = "reasoning.encrypted_content"  # asked for by default by some clients
_ID = Annotated[str, Field(max_length=256)]


class ResponseTool(BaseModel):
    """A function of the caller's."""

    model_config = ConfigDict(extra="ignore")

    type: str = Field(max_length=64)
    name: str | None = Field(None, max_length=64)
    description: str | None = Field(None, max_length=100_000)
    parameters: JsonObject | None = None
    strict: bool | None = None


class NamedFunction(BaseModel):
    """The function that the model must call."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["function"]
    name: str = Field(max_length=64)


class TextFormat(BaseModel):
    """The form of the text."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = Field(None, max_length=64)
    body: JsonObject | None = Field(None, alias="schema")
    strict: bool | None = None


class TextSettings(BaseModel):
    """Settings of the text."""

    model_config = ConfigDict(extra="forbid")

    format: TextFormat | None = None
    verbosity: Literal["medium"] | None = None  # OpenAI's default; the others need a model that knows them


class Reasoning(BaseModel):
    """How much the model thinks before it answers."""

    model_config = ConfigDict(extra="allow")

    effort: str | None = Field(None, max_length=32)


class ResponsesRequest(BaseModel):
    """The body of `/v1/responses`."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(max_length=256)
    input: Text | list[Item] = Field(max_length=4_000_000)
    instructions: Text | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)  # not OpenAI's
    text: TextSettings | None = None
    tools: list[ResponseTool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: _ID | None = None
    store: bool | None = None
    include: list[_ID] | None = Field(None, max_length=16)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    truncation: Literal["disabled", "auto"] | None = None
    background: bool | None = None
    reasoning: Reasoning | None = None
    metadata: Labels | None = Field(None, max_length=16)
    user: str | None = Field(None, max_length=512)
    safety_identifier: str | None = Field(None, max_length=512)
    prompt_cache_key: str | None = Field(None, max_length=512)
    service_tier: str | None = Field(None, max_length=32)

    @property
    def wants_log_probs(self) -> bool:
        return _LOG_PROBS in (self.include or ())

    def messages(self) -> list[dict[str, Any]]:
        """The input as messages of a chat."""
        if isinstance(self.input, str):
            return [{"role": "user", "content": self.input}]
        return as_messages(self.input)

    def as_chat(self, earlier: list[dict[str, Any]]) -> ChatRequest:
        """The chat that answers this behind the messages of `earlier` responses."""
        self._refuse_unserved()
        instructions = [] if self.instructions is None else [{"role": "system", "content": self.instructions}]
        return chat_request(
            {
                "model": self.model,
                "messages": [*instructions, *earlier, *self.messages()],
                "max_completion_tokens": self.max_output_tokens,
                "stream": bool(self.stream),
                "temperature": self.temperature,
                "top_p": self.top_p,
                "seed": self.seed,
                "logprobs": self.wants_log_probs,
                "response_format": self._format(),
                **self._tools(),
            }
        )

    def _refuse_unserved(self) -> None:
        if self.top_logprobs:
            raise unsupported("top_logprobs", self.top_logprobs, "the engine gives those of the chosen tokens; send 0")
        if self.background:
            raise unsupported("background", found=True, mend="answers are not made without their client; stream them")
        if self.truncation == "auto":
            raise unsupported("truncation", "auto", "shorten the input yourself; a message says by how much")
        if self.reasoning is not None and self.reasoning.effort not in (None, "none"):
            raise unsupported("reasoning", self.reasoning.effort, "the model does not think aloud; leave it out")
        other = next((what for what in self.include or () if what not in (_LOG_PROBS, _NOTHING_TO_INCLUDE)), None)
        if other is not None:
            raise unsupported("include", other, f"there is {_LOG_PROBS}")

    def _format(self) -> dict[str, Any] | None:
        form = self.text.format if self.text is not None else None
        if form is None or form.type == "text":
            return None
        if form.type == "json_object":
            return {"type": "json_object"}
        if form.body is None:
            raise ApiError(400, "text.format.schema: is missing", param="text.format.schema")
        return {"type": "json_schema", "json_schema": {"name": form.name or "output", "schema": form.body}}

    def _tools(self) -> dict[str, Any]:
        choice: Any = self.tool_choice
        if isinstance(choice, NamedFunction):
            choice = {"type": "function", "function": {"name": choice.name}}
        return {
            "tools": [_tool(tool) for tool in self.tools] if self.tools else None,
            "tool_choice": choice,
            "parallel_tool_calls": self.parallel_tool_calls,
        }


def _tool(tool: ResponseTool) -> dict[str, Any]:
    if tool.type != "function":
        raise unsupported("tools", tool.type, "tools that a server runs are not served; send functions")
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}
