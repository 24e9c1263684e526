"""Calls of tools in the text that a model writes, read while it comes.

How the text is cut into pieces changes neither the calls nor the text beside them. What looks like a call and is none,
as an unknown name or broken JSON, is text. White space between and around calls belongs to them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from slipstream.gateway.tools.call_reader import Arguments, CallBegun, CallReader, Piece, Text

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_TAG = "<|python_tag|>"


class ToolParser(ABC):
    """Reads one answer: `push` its text as it comes, then `finish` once."""

    def __init__(self, names: frozenset[str]) -> None:
        """`names` are those of the tools; another one is no call."""
        self._names = names
        self._buffer = ""
        self._marker = ""  # what came before the object that is being read; text again if that is no call
        self._reader: CallReader | None = None
        self._pieces: list[Piece] = []
        self._has_calls = False

    def push(self, text: str) -> list[Piece]:
        """What `text` brings; neighbours of one kind are joined."""
        self._buffer += text
        while self._read_call() if self._reader is not None else self._read_text():
            pass
        return self._taken()

    def finish(self) -> list[Piece]:
        """End the answer; what was held back and is no call after all."""
        if self._reader is None:
            self._say(self._rest())
        elif not self._reader.has_begun:
            self._say(self._marker + self._reader.raw)
        self._reader, self._buffer, self._marker = None, "", ""
        return self._taken()

    @abstractmethod
    def _read_text(self) -> bool:
        """Take text from the buffer, up to where a call may begin; False when more is needed."""

    @abstractmethod
    def _rest(self) -> str:
        """Text that is still held at the end."""

    @abstractmethod
    def _after_call(self, *, is_call: bool) -> None:
        """Go on behind an object."""

    def _read_call(self) -> bool:
        reader = self._reader
        assert reader is not None
        taken = reader.push(self._buffer)
        self._buffer = self._buffer[taken:]
        self._pieces += reader.take()
        self._has_calls = self._has_calls or reader.has_begun
        if reader.outcome is None:
            return False
        is_call = reader.outcome == "call"
        if not is_call:
            self._say(self._marker + reader.raw)
        self._reader, self._marker = None, ""
        self._after_call(is_call=is_call)
        return True

    def _start_call(self, marker: str) -> None:
        self._marker, self._reader = marker, CallReader(self._names)

    def _say(self, text: str) -> None:
        if text:
            self._pieces.append(Text(text))

    def _taken(self) -> list[Piece]:
        joined: list[Piece] = []
        for piece in self._pieces:
            last = joined[-1] if joined else None
            if isinstance(piece, Text) and isinstance(last, Text):
                joined[-1] = Text(last.text + piece.text)
            elif isinstance(piece, Arguments) and isinstance(last, Arguments):
                joined[-1] = Arguments(last.text + piece.text)
            else:
                joined.append(piece)
        self._pieces = []
        return joined


class HermesParser(ToolParser):
    """`<tool_call>{"name": …, "arguments": {…}}</tool_call>` anywhere in the text, as Hermes and Qwen write it."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(names)
        self._space = ""  # held: white space before a call is not said
        self._expects_close = False

    def _read_text(self) -> bool:
        if self._expects_close:
            return self._read_close()
        before, mark, behind = self._buffer.partition(_OPEN)
        if mark:
            self._hold_space(before)
            self._buffer = behind
            self._start_call(self._space + _OPEN)
            self._space = ""
            return True
        cut = len(before) - _held(before, _OPEN)
        self._hold_space(before[:cut])
        self._buffer = before[cut:]
        return False

    def _read_close(self) -> bool:
        text = self._buffer.lstrip()
        if text.startswith(_CLOSE):
            self._buffer = text[len(_CLOSE) :]
        elif _CLOSE.startswith(text):
            return False
        self._expects_close = False
        return True

    def _hold_space(self, text: str) -> None:
        said = self._space + text
        shown = said.rstrip()
        self._say(shown)
        self._space = said[len(shown) :]

    def _rest(self) -> str:
        if self._expects_close:
            return ""
        rest = self._space + self._buffer
        return "" if self._has_calls and not rest.strip() else rest

    def _after_call(self, *, is_call: bool) -> None:
        self._expects_close = is_call


class JsonParser(ToolParser):
    """`{"name": …, "parameters": {…}}` as the whole answer, several with a semicolon between: Llama 3 writes so."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(names)
        self._is_text = False

    def _read_text(self) -> bool:
        if self._is_text:
            self._say(self._buffer)
            self._buffer = ""
            return False
        rest = self._buffer.lstrip().removeprefix(";" if self._has_calls else _TAG).lstrip()
        if rest.startswith("{"):
            self._start_call(self._buffer[: len(self._buffer) - len(rest)])
            self._buffer = rest
            return True
        if not rest or (not self._has_calls and _TAG.startswith(rest)):
            return False
        self._is_text = True
        return True

    def _rest(self) -> str:
        return "" if self._has_calls and not self._buffer.strip("; \t\r\n") else self._buffer

    def _after_call(self, *, is_call: bool) -> None:
        self._is_text = not is_call


def _held(text: str, marker: str) -> int:
    """Length of the longest end of `text` with which `marker` begins."""
    longest = min(len(text), len(marker) - 1)
    return next((length for length in range(longest, 0, -1) if marker.startswith(text[-length:])), 0)


__all__ = ["Arguments", "CallBegun", "HermesParser", "JsonParser", "Piece", "Text", "ToolParser"]
