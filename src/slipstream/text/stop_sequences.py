"""Stop strings in streamed text: cut before the first one, and never let out the beginning of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.errors import SlipstreamError


@dataclass(frozen=True, slots=True, kw_only=True)
class StopCheck:
    """What one piece of text led to."""

    text: str  # safe to send: neither in nor possibly the beginning of a stop string
    stop: str | None  # the stop string that ended the stream; nothing after it is text of the reply

    @property
    def is_stopped(self) -> bool:
        return self.stop is not None


class StopMatcher:
    """Watches one stream for `stops`; the stop that is complete first wins, of several at once the longest.

    How the text is cut into pieces changes neither the text let out nor the stop found.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise SlipstreamError("stop: holds an empty string", mend="leave it out; every stop needs a character")
        self._stops = tuple(stops)
        self._held = ""
        self._found: str | None = None

    @property
    def is_holding(self) -> bool:
        """Text is held back that may be the beginning of a stop string."""
        return bool(self._held)

    def push(self, piece: str) -> StopCheck:
        """Take the next `piece`; after a stop was found everything more is dropped."""
        if self._found is not None:
            return StopCheck(text="", stop=self._found)
        buffer = self._held + piece
        match = _first_complete(buffer, self._stops)
        if match is None:
            cut = len(buffer) - _possible_beginning(buffer, self._stops)
            self._held = buffer[cut:]
            return StopCheck(text=buffer[:cut], stop=None)
        self._held, self._found = "", match.stop
        return StopCheck(text=buffer[: match.start], stop=match.stop)

    def finish(self) -> str:
        """End the stream; what was held back, which is no stop string after all."""
        rest, self._held = self._held, ""
        return rest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Match:
    start: int
    stop: str


def _first_complete(buffer: str, stops: tuple[str, ...]) -> _Match | None:
    matches = [_Match(start=start, stop=stop) for stop in stops if (start := buffer.find(stop)) >= 0]
    return min(matches, key=lambda match: (match.start + len(match.stop), match.start), default=None)


def _possible_beginning(buffer: str, stops: tuple[str, ...]) -> int:
    """Length of the longest end of `buffer` with which a stop string begins."""
    longest = max((len(stop) - 1 for stop in stops), default=0)
    for length in range(min(longest, len(buffer)), 0, -1):
        if any(stop.startswith(buffer[-length:]) for stop in stops):
            return length
    return 0
