"""Reads one JSON object, character by character, that may be the call of a tool."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

_ARGUMENTS = ("arguments", "parameters")  # as Hermes and as Llama 3 call them
_SPACE = " \t\r\n"
_OPENING, _CLOSING = "{[", "}]"


@dataclass(frozen=True, slots=True)
class Text:
    """Text that is no call."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call of the tool `name`; its arguments follow."""

    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the JSON text of the arguments of the last call."""

    text: str


Piece = Text | CallBegun | Arguments
_Phase = Callable[[str], None]


class CallReader:
    """Takes the text of `{"name": …, "arguments": {…}}` as it comes; arguments go out while they are written.

    A call begins once the name of one of the tools and the opening brace of its arguments are there, in either order.
    What is broken before that is no call, and `raw` has all of its text; behind that the call stands as it is.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self.raw = ""  # what was read until the call began
        self.has_begun = False
        self.outcome: Literal["call", "no call"] | None = None  # none while more is to come
        self._names = names
        self._phase: _Phase = self._before
        self._key = ""
        self._value = ""
        self._depth = 0
        self._in_string = self._is_escaped = False
        self._name: str | None = None
        self._arguments: str | None = None  # whole, while the name is not known
        self._pieces: list[Piece] = []
        self._fresh = ""  # arguments to send

    def push(self, text: str) -> int:
        """Read `text`; how many of its characters belong to the object."""
        for position, char in enumerate(text):
            had_begun = self.has_begun
            self._phase(char)
            if self.outcome is not None and not self._ends_with(char):
                return position
            if not had_begun:
                self.raw += char
            if self.outcome is not None:
                return position + 1
        return len(text)

    def take(self) -> list[Piece]:
        """What has been found since the last time."""
        if self._fresh:
            self._pieces.append(Arguments(self._fresh))
        pieces, self._pieces, self._fresh = self._pieces, [], ""
        return pieces

    def _ends_with(self, char: str) -> bool:
        return self._phase == self._ended and char == "}"

    def _before(self, char: str) -> None:
        if char == "{":
            self._phase = self._member
        elif char not in _SPACE:
            self._break()

    def _member(self, char: str) -> None:
        if char == '"':
            self._start_value(char, self._in_key)
        elif char == "}":
            self._end()
        elif char not in _SPACE:
            self._break()

    def _in_key(self, char: str) -> None:
        if self._is_complete(char):
            key = _decoded(self._value)
            if key is None:
                self._break()
            else:
                self._key, self._phase = key, self._colon

    def _colon(self, char: str) -> None:
        if char == ":":
            self._phase = self._before_value
        elif char not in _SPACE:
            self._break()

    def _before_value(self, char: str) -> None:
        if char in _SPACE:
            return
        if char in ",:}]":
            self._break()
            return
        if self._key in _ARGUMENTS and char == "{" and self._name is not None and not self.has_begun:
            self._begin(self._name)
            self._start_value(char, self._in_arguments)
            self._fresh += char
        else:
            self._start_value(char, self._in_value if char in '"{[' else self._in_scalar)

    def _in_arguments(self, char: str) -> None:
        self._fresh += char
        if self._is_complete(char):
            self._phase = self._after_value

    def _in_value(self, char: str) -> None:
        if self._is_complete(char):
            self._phase = self._after_value
            self._keep()

    def _in_scalar(self, char: str) -> None:
        if char in ",}" or char in _SPACE:
            self._phase = self._after_value
            self._keep()
            if self.outcome is None:
                self._after_value(char)
        else:
            self._value += char

    def _after_value(self, char: str) -> None:
        if char == ",":
            self._phase = self._member
        elif char == "}":
            self._end()
        elif char not in _SPACE:
            self._break()

    def _ended(self, char: str) -> None:
        raise AssertionError(f"the object has ended before {char!r}")

    def _start_value(self, char: str, phase: _Phase) -> None:
        self._value, self._phase = char, phase
        self._depth = int(char in _OPENING)
        self._in_string, self._is_escaped = char == '"', False

    def _is_complete(self, char: str) -> bool:
        """Whether `char` ends the string, object or list that is being read."""
        if self._phase != self._in_arguments:
            self._value += char
        if self._is_escaped:
            self._is_escaped = False
        elif self._in_string:
            self._is_escaped = char == "\\"
            self._in_string = char != '"'
        elif char == '"':
            self._in_string = True
        else:
            self._depth += (char in _OPENING) - (char in _CLOSING)
        return self._depth == 0 and not self._in_string

    def _keep(self) -> None:
        """Take over the value of a member that has been read."""
        if self.has_begun:
            return
        if self._key == "name":
            name = _decoded(self._value)
            self._name = name if name in self._names else None
            if self._name is None:
                self._break()
        elif self._key in _ARGUMENTS:
            self._arguments = _arguments(self._value)
            if self._arguments is None:
                self._break()
        if self._name is not None and self._arguments is not None:
            self._begin(self._name)
            self._fresh += self._arguments

    def _begin(self, name: str) -> None:
        self.has_begun = True
        self._pieces.append(CallBegun(name))

    def _end(self) -> None:
        self._phase = self._ended
        self.outcome = "call" if self.has_begun else "no call"

    def _break(self) -> None:
        self.outcome = "call" if self.has_begun else "no call"


def _decoded(value: str) -> str | None:
    """The text of a JSON string, none if it is something else."""
    try:
        text = json.loads(value, strict=False)
        text.encode()  # a lone surrogate is no text
    except (ValueError, AttributeError):
        return None
    return text if isinstance(text, str) else None


def _arguments(value: str) -> str | None:
    """Arguments as JSON text, none if they are no object; some models write the object as a string."""
    text = "{}" if value == "null" else value if value.startswith("{") else _decoded(value)
    return text if text is not None and text.lstrip().startswith("{") else None
