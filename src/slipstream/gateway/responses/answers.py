"""Answers in the form of the Responses API: a response of items, or the events that build it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from slipstream.gateway.errors import ApiError
from slipstream.gateway.generation import Delta
from slipstream.gateway.openai.answers import Answer, Usage, log_prob_entries
from slipstream.gateway.responses.output import Output
from slipstream.gateway.responses.requests import ResponsesRequest
from slipstream.gateway.served_model import ServedModel
from slipstream.gateway.tools.forms import ToolReading
from slipstream.gateway.tools.replies import ReplyReader

Frame = Callable[[str, bytes], bytes]  # an event's type and JSON as they are sent
Keep = Callable[[str, bytes, list[dict[str, Any]]], None]  # a response's id, JSON and items


def server_sent(kind: str, content: bytes) -> bytes:
    """An event of a stream over HTTP."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), content)


def line(kind: str, content: bytes) -> bytes:  # noqa: ARG001 - the type is in the content too
    """An event of a WebSocket; JSON holds no line break of its own."""
    return content + b"\n"


class ResponsesAnswer(Answer):
    """The answer to one request for a response."""

    def __init__(
        self, model: ServedModel, request: ResponsesRequest, reading: ToolReading | None, *, frame: Frame, keep: Keep
    ) -> None:
        self.model = model
        self._request = request
        self._reader = ReplyReader(reading)
        self._frame = frame
        self._keep = keep
        self._id = f"resp_{secrets.token_hex(24)}"
        self._created = int(time.time())
        self._events = 0
        self._output = Output(self._event)
        self._is_cut = False

    def opening_event(self, index: int) -> bytes:  # noqa: ARG002 - the base's signature
        response = self._response("in_progress", [], None)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def delta_event(self, index: int, delta: Delta) -> bytes:  # noqa: ARG002 - the base's signature
        reply = self._reader.push(delta.text, is_last=delta.finish is not None)
        entries = log_prob_entries(self.model, delta) if delta.log_probs else []
        events = self._output.text(reply.text, entries) if reply.text or entries else b""
        for call in reply.calls:
            events += self._output.call(call)
        self._is_cut = delta.finish == "length"
        return events

    def closing_events(self, usage: Usage, *, include_usage: bool) -> bytes:  # noqa: ARG002 - the base's signature
        status = "incomplete" if self._is_cut else "completed"
        events = self._output.close(status)
        response = self._response(status, self._output.items, usage)
        self._keep(self._id, orjson.dumps(response), self._output.items)
        return events + self._event(f"response.{status}", response=response)

    def error_event(self, error: ApiError) -> bytes:
        said = self._event("error", code=error.code, message=error.message, param=error.param)
        response = self._response("failed", self._output.items, None)
        response["error"] = {"code": "server_error", "message": error.message}
        return said + self._event("response.failed", response=response)

    def whole(self, choices: Sequence[list[Delta]], usage: Usage) -> bytes:
        for delta in choices[0]:
            self.delta_event(0, delta)
        status = "incomplete" if self._is_cut else "completed"
        self._output.close(status)
        body = orjson.dumps(self._response(status, self._output.items, usage))
        self._keep(self._id, body, self._output.items)
        return body

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._events += 1
        content = {"type": kind, **fields, "sequence_number": self._events - 1}
        return self._frame(kind, orjson.dumps(content))

    def _response(self, status: str, output: list[dict[str, Any]], usage: Usage | None) -> dict[str, Any]:
        request = self._request
        asked = request.model_dump(
            by_alias=True, exclude_none=True, include={"text", "tools", "tool_choice", "metadata"}
        )
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "model": self.model.name,
            "output": output,
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": request.previous_response_id,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "store": request.store is not False,
            "temperature": 1.0 if request.temperature is None else request.temperature,
            "text": {"format": {"type": "text"}} | asked.get("text", {}),
            "tool_choice": asked.get("tool_choice", "auto"),
            "tools": asked.get("tools", []),
            "top_logprobs": 0,
            "top_p": 1.0 if request.top_p is None else request.top_p,
            "truncation": "disabled",
            "usage": None if usage is None else _usage(usage),
            "user": request.user,
            "metadata": asked.get("metadata", {}),
        }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
