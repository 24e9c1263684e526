"""Answers as bytes: one JSON object, or a stream of events."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import orjson

from slipstream.gateway.errors import ApiError
from slipstream.gateway.generation import Delta
from slipstream.gateway.served_model import ServedModel

DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Usage:
    """Tokens that a request took."""

    prompt_tokens: int
    completion_tokens: int = 0

    def as_json(self) -> dict[str, int]:
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


def event(value: object) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def error_event(error: ApiError) -> bytes:
    """The event that ends a stream that broke, as OpenAI's SDKs read it."""
    return event(error.body())


class Answer(ABC):
    """Writes the answers to one request; the two APIs of completions differ in names and in the form of a choice."""

    prefix: ClassVar[str]
    whole_object: ClassVar[str]
    piece_object: ClassVar[str]

    def __init__(self, model: ServedModel, *, wants_log_probs: bool) -> None:
        self.model = model
        self.wants_log_probs = wants_log_probs
        self._id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())
        head = {**self._head(self.piece_object), "choices": []}
        # A piece differs from the last one in its choice alone: the rest is written once.
        self._before, self._after = event(head).split(b"[]")

    @abstractmethod
    def opening(self, index: int) -> dict[str, Any] | None:
        """The choice in the first event of a stream."""

    @abstractmethod
    def piece(self, index: int, delta: Delta) -> dict[str, Any]:
        """The choice in one event of a stream."""

    @abstractmethod
    def choice(self, index: int, text: str, deltas: list[Delta]) -> dict[str, Any]:
        """One choice of a whole answer."""

    def piece_event(self, choice: dict[str, Any]) -> bytes:
        """One event with one choice."""
        return b"%b[%b]%b" % (self._before, orjson.dumps(choice), self._after)

    def usage_event(self, usage: Usage) -> bytes:
        """The event that comes after the last choice when a client asks for usage."""
        return event({**self._head(self.piece_object), "choices": [], "usage": usage.as_json()})

    def whole(self, choices: Sequence[dict[str, Any]], usage: Usage) -> bytes:
        """The answer that is not streamed."""
        return orjson.dumps({**self._head(self.whole_object), "choices": choices, "usage": usage.as_json()})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self.model.name,
            "system_fingerprint": None,
        }
