"""One choice of a chat as its text comes: content beside calls, each call with its number and id."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from slipstream.gateway.tools.forms import ToolReading
from slipstream.gateway.tools.parsers import Arguments, CallBegun, Piece, Text


@dataclass(slots=True)
class CallDelta:
    """What came of one call."""

    index: int
    id: str | None = None  # with the name, once
    name: str | None = None
    arguments: str = ""


@dataclass(slots=True)
class ReplyDelta:
    """What came of one choice."""

    text: str = ""
    calls: list[CallDelta] = field(default_factory=list)


class ReplyReader:
    """Follows one choice; without tools its text is its content."""

    def __init__(self, reading: ToolReading | None) -> None:
        self._parser = None if reading is None else reading.parser()
        self._is_single = reading is not None and reading.is_single
        self.calls = 0

    def push(self, text: str, *, is_last: bool) -> ReplyDelta:
        """Take more text; with the last of it comes what was held back."""
        if self._parser is None:
            return ReplyDelta(text)
        delta = ReplyDelta()
        for piece in [*self._parser.push(text), *(self._parser.finish() if is_last else ())]:
            self._take(piece, delta)
        return delta

    def _take(self, piece: Piece, delta: ReplyDelta) -> None:
        if isinstance(piece, CallBegun):
            self.calls += 1
        if self._is_single and self.calls > 1:
            return
        if isinstance(piece, Text):
            delta.text += piece.text
        elif isinstance(piece, CallBegun):
            delta.calls.append(CallDelta(self.calls - 1, f"call_{secrets.token_hex(12)}", piece.name))
        elif isinstance(piece, Arguments):
            if not delta.calls or delta.calls[-1].index != self.calls - 1:
                delta.calls.append(CallDelta(self.calls - 1))
            delta.calls[-1].arguments += piece.text
