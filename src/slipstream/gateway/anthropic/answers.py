"""Answers in the form of Anthropic's Messages API: a message of blocks, or the events that build it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import jiter
import orjson

from slipstream.gateway.anthropic.errors import anthropic_error
from slipstream.gateway.errors import ApiError
from slipstream.gateway.generation import Delta
from slipstream.gateway.openai.answers import Answer, Usage
from slipstream.gateway.served_model import ServedModel
from slipstream.gateway.tools.forms import ToolReading
from slipstream.gateway.tools.replies import CallDelta, ReplyReader

_TEXT_DELTA = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":%b}}\n\n'
)


class MessagesAnswer(Answer):
    """The answer to one request for a message."""

    def __init__(self, model: ServedModel, reading: ToolReading | None, *, input_tokens: int) -> None:
        self.model = model
        self._reading = reading
        self._reader = ReplyReader(reading)
        self._input_tokens = input_tokens
        self._id = f"msg_{secrets.token_hex(12)}"
        self._blocks = 0  # begun
        self._open: int | None = None  # what is being written: a call's number, or -1 for text
        self._last: Delta | None = None

    def opening_event(self, index: int) -> bytes:  # noqa: ARG002 - the base's signature
        usage = {"input_tokens": self._input_tokens, "output_tokens": 0}
        return _event("message_start", message=self._message([], None, None, usage))

    def delta_event(self, index: int, delta: Delta) -> bytes:  # noqa: ARG002 - the base's signature
        reply = self._reader.push(delta.text, is_last=delta.finish is not None)
        events = self._text(reply.text) if reply.text else b""
        for call in reply.calls:
            events += self._call(call)
        if delta.finish is not None:
            self._last = delta
        return events

    def closing_events(self, usage: Usage, *, include_usage: bool) -> bytes:  # noqa: ARG002 - the base's signature
        assert self._last is not None
        stop = {"stop_reason": self._stop_reason(self._last), "stop_sequence": self._last.stop}
        tokens = {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens}
        return self._close() + _event("message_delta", delta=stop, usage=tokens) + _event("message_stop")

    def error_event(self, error: ApiError) -> bytes:
        return b"event: error\ndata: " + orjson.dumps(anthropic_error(error.status, error.message)) + b"\n\n"

    def whole(self, choices: Sequence[list[Delta]], usage: Usage) -> bytes:
        deltas = choices[0]
        reply = self._reader.push("".join(delta.text for delta in deltas), is_last=True)
        content: list[dict[str, Any]] = [{"type": "text", "text": reply.text}] if reply.text else []
        content += [_tool_use(call, _input(call.arguments)) for call in reply.calls]
        tokens = {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens}
        return orjson.dumps(self._message(content, self._stop_reason(deltas[-1]), deltas[-1].stop, tokens))

    def _message(
        self, content: list[dict[str, Any]], reason: str | None, stop: str | None, usage: dict[str, int]
    ) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self.model.name,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": usage,
        }

    def _stop_reason(self, last: Delta) -> str:
        if last.finish == "length":
            return "max_tokens"
        if self._reader.calls:
            return "tool_use"
        return "end_turn" if last.stop is None else "stop_sequence"

    def _text(self, text: str) -> bytes:
        begin = b"" if self._open == -1 else self._begin(-1, {"type": "text", "text": ""})
        return begin + _TEXT_DELTA % (self._blocks - 1, orjson.dumps(text))

    def _call(self, call: CallDelta) -> bytes:
        begin = b"" if call.id is None else self._begin(call.index, _tool_use(call, {}))
        if not call.arguments:
            return begin
        delta = {"type": "input_json_delta", "partial_json": call.arguments}
        return begin + _event("content_block_delta", index=self._blocks - 1, delta=delta)

    def _begin(self, what: int, block: dict[str, Any]) -> bytes:
        events = self._close() + _event("content_block_start", index=self._blocks, content_block=block)
        self._open = what
        self._blocks += 1
        return events

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _event("content_block_stop", index=self._blocks - 1)


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **fields}))


def _tool_use(call: CallDelta, arguments: object) -> dict[str, Any]:
    assert call.id is not None
    return {
        "type": "tool_use",
        "id": f"toolu_{call.id.removeprefix('call_')}",
        "name": call.name,
        "input": arguments,
    }


def _input(arguments: str) -> object:
    """The object that the model wrote, as far as it came."""
    try:
        return jiter.from_json(arguments.encode(), partial_mode="on")
    except ValueError:
        return {}
