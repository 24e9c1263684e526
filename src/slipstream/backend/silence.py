"""How long the step loop has said nothing: a step that hangs is noticed by its silence."""

from __future__ import annotations

import time


class Silence:
    """Measured while requests are in flight; a loop at work gives a sign of life every second or every step."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._since_s = time.monotonic()
        self._was_killed = False

    def break_off(self) -> None:
        """The loop has said something, or had nothing to say."""
        self._since_s = time.monotonic()

    @property
    def is_too_long(self) -> bool:
        return time.monotonic() - self._since_s > self._longest_s

    def note_kill(self) -> None:
        """The loop is ended for its silence."""
        self._was_killed = True
        self.break_off()

    def take_fault(self) -> str:
        """What the loop's end is to be called."""
        fault = f"made no step for {self._longest_s:g} s" if self._was_killed else "died"
        self._was_killed = False
        return fault
