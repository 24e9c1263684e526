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


def log_prob_entries(model: ServedModel, delta: Delta) -> list[dict[str, Any]]:
    """The tokens of `delta` with their log-probabilities, as OpenAI's chat API lists them."""
    entries = []
    for token in delta.log_probs:
        text = model.tokenizer.decode([token.token_id], skip_special_tokens=False)
        entries.append({"token": text, "logprob": token.log_prob, "bytes": list(text.encode()), "top_logprobs": []})
    return entries


class Answer(ABC):
    """Writes the answers to one request; each API has its own."""

    model: ServedModel

    @abstractmethod
    def opening_event(self, index: int) -> bytes:
        """What a stream says of a choice before its first text."""

    @abstractmethod
    def delta_event(self, index: int, delta: Delta) -> bytes:
        """The events that `delta` brings; empty while it is held back."""

    @abstractmethod
    def closing_events(self, usage: Usage, *, include_usage: bool) -> bytes:
        """The events behind the last delta."""

    @abstractmethod
    def error_event(self, error: ApiError) -> bytes:
        """The end of a stream that broke."""

    @abstractmethod
    def whole(self, choices: Sequence[list[Delta]], usage: Usage) -> bytes:
        """The answer that is not streamed, from all deltas of each choice."""


class ChoicesAnswer(Answer):
    """OpenAI's chat and plain completions, which differ in names and in the form of a choice."""

    prefix: ClassVar[str]
    whole_object: ClassVar[str]
    piece_object: ClassVar[str]

    def __init__(self, model: ServedModel, *, wants_log_probs: bool, include_usage: bool = False) -> None:
        self.model = model
        self.wants_log_probs = wants_log_probs
        self._id = f"{self.prefix}-{secrets.token_hex(12)}"
        self._created = int(time.time())
        head = {**self._head(self.piece_object), "choices": [], **({"usage": None} if include_usage else {})}
        # A piece differs from the last one in its choice alone: the rest is written once.
        self._before, self._after = event(head).split(b"[]")

    @abstractmethod
    def opening(self, index: int) -> dict[str, Any] | None:
        """The choice in the first event of a stream."""

    @abstractmethod
    def piece(self, index: int, delta: Delta) -> dict[str, Any] | None:
        """The choice in one event of a stream; none while there is nothing to say."""

    @abstractmethod
    def choice(self, index: int, text: str, deltas: list[Delta]) -> dict[str, Any]:
        """One choice of a whole answer."""

    def opening_event(self, index: int) -> bytes:
        return self.piece_event(self.opening(index))

    def delta_event(self, index: int, delta: Delta) -> bytes:
        return self.piece_event(self.piece(index, delta))

    def piece_event(self, choice: dict[str, Any] | None) -> bytes:
        """One event with one choice."""
        return b"" if choice is None else b"%b[%b]%b" % (self._before, orjson.dumps(choice), self._after)

    def closing_events(self, usage: Usage, *, include_usage: bool) -> bytes:
        """Usage, for a client that asks for it, and the end."""
        if not include_usage:
            return DONE
        return event({**self._head(self.piece_object), "choices": [], "usage": usage.as_json()}) + DONE

    def error_event(self, error: ApiError) -> bytes:
        return error_event(error)

    def whole(self, choices: Sequence[list[Delta]], usage: Usage) -> bytes:
        written = [
            self.choice(index, "".join(delta.text for delta in of_one), of_one) for index, of_one in enumerate(choices)
        ]
        return orjson.dumps({**self._head(self.whole_object), "choices": written, "usage": usage.as_json()})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self.model.name,
            "system_fingerprint": None,
        }
