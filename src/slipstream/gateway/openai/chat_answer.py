"""The answers to one chat request, whole or in pieces."""

from __future__ import annotations

from typing import Any

import orjson

from slipstream.gateway.generation import Delta
from slipstream.gateway.openai.answers import ChoicesAnswer, log_prob_entries
from slipstream.gateway.openai.chat import ChatRequest
from slipstream.gateway.served_model import ServedModel
from slipstream.gateway.tools.forms import ToolReading
from slipstream.gateway.tools.replies import CallDelta, ReplyReader

_TEXT_CHOICE = b'%b[{"index":%d,"delta":{"content":%b},"logprobs":null,"finish_reason":null}]%b'


class ChatAnswer(ChoicesAnswer):
    """The answers to one chat request."""

    prefix = "chatcmpl"
    whole_object = "chat.completion"
    piece_object = "chat.completion.chunk"

    def __init__(self, model: ServedModel, request: ChatRequest, reading: ToolReading | None) -> None:
        super().__init__(model, wants_log_probs=request.logprobs, include_usage=request.includes_usage)
        self._reading = reading
        self._readers: dict[int, ReplyReader] = {}

    def delta_event(self, index: int, delta: Delta) -> bytes:
        if self._reading is None and not self.wants_log_probs and delta.finish is None:
            # Nearly every event is one of these: 0.32 µs, 0.95 where orjson writes the whole event.
            return _TEXT_CHOICE % (self._before, index, orjson.dumps(delta.text), self._after)
        return super().delta_event(index, delta)

    def opening(self, index: int) -> dict[str, Any]:
        """The first event of a stream names the role."""
        return {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, delta: Delta) -> dict[str, Any] | None:
        if (reader := self._readers.get(index)) is None:
            reader = self._readers[index] = ReplyReader(self._reading)
        reply = reader.push(delta.text, is_last=delta.finish is not None)
        content: dict[str, Any] = {"content": reply.text} if reply.text else {}
        if reply.calls:
            content["tool_calls"] = [_call_piece(call) for call in reply.calls]
        if not content and not delta.log_probs and delta.finish is None:
            return None
        return {
            "index": index,
            "delta": content,
            "logprobs": {"content": log_prob_entries(self.model, delta), "refusal": None} if delta.log_probs else None,
            "finish_reason": _finish(delta, reader),
        }

    def choice(self, index: int, text: str, deltas: list[Delta]) -> dict[str, Any]:
        reader = ReplyReader(self._reading)
        reply = reader.push(text, is_last=True)
        message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
        if reply.calls:
            message |= {"content": reply.text or None, "tool_calls": [_call(call) for call in reply.calls]}
        log_probs = [entry for delta in deltas for entry in log_prob_entries(self.model, delta)]
        return {
            "index": index,
            "message": message,
            "logprobs": {"content": log_probs, "refusal": None} if self.wants_log_probs else None,
            "finish_reason": _finish(deltas[-1], reader),
        }


def _finish(delta: Delta, reader: ReplyReader) -> str | None:
    return "tool_calls" if delta.finish == "stop" and reader.calls else delta.finish


def _call(call: CallDelta) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _call_piece(call: CallDelta) -> dict[str, Any]:
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    return {"index": call.index, **_call(call)}
