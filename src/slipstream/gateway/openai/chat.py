"""`/v1/chat/completions`: messages in, a message out, whole or in pieces."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from slipstream.gateway.errors import ApiError, unsupported
from slipstream.gateway.generation import Delta, Wanted
from slipstream.gateway.openai.answers import Answer
from slipstream.gateway.openai.requests import GenerationFields, Text
from slipstream.gateway.served_model import ServedModel

Role = Literal["system", "developer", "user", "assistant", "tool"]


class ContentPart(BaseModel):
    """One part of a message; a model that reads text takes text."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(max_length=64)
    text: Text | None = None


class ChatMessage(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Role
    content: Text | list[ContentPart] | None = None
    name: str | None = Field(None, max_length=64)
    tool_calls: list[dict[str, Any]] | None = Field(None, max_length=128)
    tool_call_id: str | None = Field(None, max_length=128)
    refusal: str | None = None

    def for_template(self) -> dict[str, Any]:
        """As chat templates read it: content is one text, and a developer is a system."""
        message: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": self._text()}
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        return message

    def _text(self) -> str:
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        other = next((part.type for part in self.content if part.type != "text"), None)
        if other is not None:
            raise unsupported("messages", other, "the model reads text; send parts of type text")
        return "\n".join(part.text or "" for part in self.content)


class ChatRequest(GenerationFields):
    """The body of `/v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=4096)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)

    def wanted(self, model: ServedModel) -> Wanted:
        """The generation to ask for; `ApiError` says what cannot be done."""
        self.refuse_unserved()
        if self.top_logprobs:
            raise unsupported("top_logprobs", self.top_logprobs, "the engine gives those of the chosen tokens; send 0")
        if self.top_logprobs is not None and not self.logprobs:
            raise ApiError(400, "top_logprobs: needs logprobs true", param="top_logprobs")
        ids = model.chat_prompt([message.for_template() for message in self.messages])
        room = model.room_for_output(ids)
        limit = self.max_completion_tokens or self.max_tokens or room
        return Wanted(
            prompt_ids=tuple(ids),
            max_tokens=min(limit, room),
            sampling=self.sampling(),
            stop=self.stops(),
            guide=None if self.response_format is None else self.response_format.guide(),
            log_probs=self.logprobs,
            ignores_end=self.ignore_eos,
        )


class ChatAnswer(Answer):
    """The answers to one chat request."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    piece_object = "chat.completion.chunk"

    def opening(self, index: int) -> dict[str, Any]:
        """The first event of a stream names the role."""
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, delta: Delta) -> dict[str, Any]:
        content = {"content": delta.text} if delta.text else {}
        return {
            "index": index,
            "delta": content,
            "logprobs": self._log_probs(delta) if delta.log_probs else None,
            "finish_reason": delta.finish,
        }

    def choice(self, index: int, text: str, deltas: list[Delta]) -> dict[str, Any]:
        log_probs = [entry for delta in deltas for entry in self._entries(delta)]
        return {
            "index": index,
            "message": {"role": "assistant", "content": text, "refusal": None},
            "logprobs": {"content": log_probs, "refusal": None} if self.wants_log_probs else None,
            "finish_reason": deltas[-1].finish,
        }

    def _log_probs(self, delta: Delta) -> dict[str, Any]:
        return {"content": self._entries(delta), "refusal": None}

    def _entries(self, delta: Delta) -> list[dict[str, Any]]:
        entries = []
        for token in delta.log_probs:
            text = self.model.tokenizer.decode([token.token_id], skip_special_tokens=False)
            entries.append({"token": text, "logprob": token.log_prob, "bytes": list(text.encode()), "top_logprobs": []})
        return entries
