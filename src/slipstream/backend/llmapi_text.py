"""The text of one generation of the LLM API, which gives all of it at every step, as pieces that may be sent."""

from __future__ import annotations

from collections.abc import Sequence

from slipstream.text.stop_sequences import StopMatcher

_UNFINISHED = "\ufffd"  # stands for the bytes of a character whose rest has not come


class GrowingText:
    """Cuts the new part out of a text that grows, before the first stop string.

    The engine looks for stop strings too, and takes one out of its text when it is complete: by then its beginning has
    been part of the text, which a stream must not have sent.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._matcher = StopMatcher(stops)
        self._taken = 0  # characters of the engine's text that the matcher has
        self._sent = 0
        self.stop: str | None = None  # the stop string that was found

    def push(self, so_far: str, *, is_last: bool) -> str:
        """What may be sent of the text `so_far`, and was not sent before."""
        piece = self._take(so_far if is_last else so_far.rstrip(_UNFINISHED))
        if is_last and self.stop is None:
            piece += self._matcher.finish() if len(so_far) >= self._taken else so_far[self._sent + len(piece) :]
        self._sent += len(piece)
        return piece

    def _take(self, text: str) -> str:
        if self.stop is not None or len(text) <= self._taken:
            return ""
        check = self._matcher.push(text[self._taken :])
        self._taken = len(text)
        self.stop = check.stop
        return check.text
