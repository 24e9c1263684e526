"""Notices clients that have gone away, and keeps figures fresh, while there is anything in flight."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

# Asking Triton about one request takes a round trip, which costs the server about 100 us of CPU: half of
# a token's way to its client. With many streams the questions are spread over this time, and over a step of the engine.
_LONGEST_PERIOD_S = 0.045
_LEAST_PAUSE_S = 0.02


class Watch:
    """One thread that runs a check for everything in flight, once a period, and sleeps while there is nothing."""

    def __init__(
        self,
        checks: Callable[[], Sequence[Callable[[], None]]],
        refresh: Callable[[], None],
        changed: threading.Event,
        *,
        check_period_s: float,
        refresh_period_s: float,
        step_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._checks = checks
        self._refresh = refresh
        self._check_period_s = check_period_s
        self._refresh_period_s = refresh_period_s
        self._step_s = step_s
        self._next_refresh_s = 0.0
        self._changed = changed  # somebody sets it when something began or ended
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._is_closing = True
        self._changed.set()
        self._thread.join()

    def period_s(self, count: int) -> float:
        """How long one round of `count` checks takes: it grows with them, up to the longest.

        The first of them does not count: the engine's asks the server nothing.
        """
        longest_s = max(_LONGEST_PERIOD_S + self._step_s(), self._check_period_s)
        return min(max(self._check_period_s, (count - 1) * _LEAST_PAUSE_S), longest_s)

    def _run(self) -> None:
        while not self._is_closing:
            self._refresh_if_due()
            checks = self._checks()
            if not checks:
                self._changed.wait()
                continue
            period_s = self.period_s(len(checks))
            for check in checks:
                check()
                time.sleep(period_s / len(checks))

    def _refresh_if_due(self) -> None:
        now = time.monotonic()
        if self._changed.is_set() or now >= self._next_refresh_s:
            self._changed.clear()
            self._refresh()
            self._next_refresh_s = now + self._refresh_period_s
