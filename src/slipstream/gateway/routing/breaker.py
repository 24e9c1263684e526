"""Counts what a backend does wrong, and says when it has been enough."""

from __future__ import annotations

from collections import deque

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0


class Breaker:
    """Closed while a backend is trusted; open it gets no requests, and a token probe tries whether it works again.

    Times are seconds of any clock that the caller reads.
    """

    def __init__(self, *, failures: int, error_rate: float, window: int, open_s: float) -> None:
        self._failures = failures
        self._error_rate = error_rate
        self._open_s = open_s
        self._in_a_row = 0
        self._has_failed: deque[bool] = deque(maxlen=window)
        self._pause_s = _FIRST_PAUSE_S
        self._is_open = False
        self.trial_at = 0.0  # when an open one may be tried

    @property
    def is_open(self) -> bool:
        return self._is_open

    def succeed(self) -> None:
        """A request was answered."""
        self._in_a_row = 0
        self._has_failed.append(False)

    def fail(self, now: float) -> None:
        """A request was not answered, and the backend is to blame; opens when it was one too many."""
        self._in_a_row += 1
        self._has_failed.append(True)
        is_full = len(self._has_failed) == self._has_failed.maxlen
        if self._in_a_row >= self._failures or (
            is_full and sum(self._has_failed) >= self._error_rate * len(self._has_failed)
        ):
            self._is_open = True
            self.trial_at = now + self._open_s

    def trip(self, now: float) -> None:
        """Nothing answers there: open, and try soon whether that was all."""
        if not self._is_open:
            self._is_open = True
            self.trial_at = now + self._pause_s

    def trial_failed(self, now: float) -> None:
        """Wait longer before the next trial."""
        self._is_open = True
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self.trial_at = now + self._pause_s

    def close(self) -> None:
        """A token came: start again with a clean slate."""
        self._is_open = False
        self._in_a_row = 0
        self._has_failed.clear()
        self._pause_s = _FIRST_PAUSE_S
