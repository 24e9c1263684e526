"""The items of a response as they are written, one after the other, and the events that say so."""

from __future__ import annotations

import secrets
from typing import Any, Protocol

from slipstream.gateway.tools.replies import CallDelta


class WriteEvent(Protocol):
    """Makes the bytes of an event."""

    def __call__(self, kind: str, **fields: Any) -> bytes: ...


class Output:
    """Messages and calls; the last one may still grow."""

    def __init__(self, event: WriteEvent) -> None:
        self.items: list[dict[str, Any]] = []
        self._event = event
        self._open: dict[str, Any] | None = None

    def text(self, text: str, log_probs: list[dict[str, Any]]) -> bytes:
        """More text of the message that is being written, or of a new one."""
        events = b""
        item = self._open
        if item is None or item["type"] != "message":
            events = self.close("completed") + self._begin_message()
            item = self._open
        assert item is not None
        part = item["content"][0]
        part["text"] += text
        part["logprobs"] += log_probs
        return events + self._part_event("response.output_text.delta", item, delta=text, logprobs=log_probs)

    def call(self, call: CallDelta) -> bytes:
        """More of a call; one with an id begins."""
        events = b""
        if call.id is not None:
            item: dict[str, Any] = {
                "id": f"fc_{secrets.token_hex(24)}",
                "type": "function_call",
                "status": "in_progress",
                "call_id": call.id,
                "name": call.name,
                "arguments": "",
            }
            events = self.close("completed") + self._begin(item)
        item = self.items[-1]
        assert item["type"] == "function_call", "text after a call has ended it"
        if not call.arguments:
            return events
        item["arguments"] += call.arguments
        return events + self._item_event("response.function_call_arguments.delta", item, delta=call.arguments)

    def close(self, status: str) -> bytes:
        """End the item that is being written."""
        item, self._open = self._open, None
        if item is None:
            return b""
        item["status"] = status
        if item["type"] == "function_call":
            said = {"arguments": item["arguments"], "name": item["name"]}
            events = self._item_event("response.function_call_arguments.done", item, **said)
        else:
            part = item["content"][0]
            events = self._part_event(
                "response.output_text.done", item, text=part["text"], logprobs=part["logprobs"]
            ) + self._part_event("response.content_part.done", item, part=part)
        return events + self._event("response.output_item.done", output_index=len(self.items) - 1, item=item)

    def _begin_message(self) -> bytes:
        item: dict[str, Any] = {
            "id": f"msg_{secrets.token_hex(24)}",
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        events = self._begin(item)
        item["content"].append({"type": "output_text", "text": "", "annotations": [], "logprobs": []})
        return events + self._part_event("response.content_part.added", item, part=item["content"][0])

    def _begin(self, item: dict[str, Any]) -> bytes:
        self.items.append(item)
        self._open = item
        return self._event("response.output_item.added", output_index=len(self.items) - 1, item=item)

    def _item_event(self, kind: str, item: dict[str, Any], **fields: Any) -> bytes:
        return self._event(kind, item_id=item["id"], output_index=len(self.items) - 1, **fields)

    def _part_event(self, kind: str, item: dict[str, Any], **fields: Any) -> bytes:
        return self._item_event(kind, item, content_index=0, **fields)
