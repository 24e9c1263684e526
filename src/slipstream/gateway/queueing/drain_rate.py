"""How fast an engine takes in work, as it was measured."""

from __future__ import annotations

import math

_HALF_LIFE_S = 15.0  # of busy time
_SHORTEST_S = 0.05  # less busy time says nothing


class DrainRate:
    """Tokens of ended requests over the time in which the engine was busy; the latest count most."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._busy_s = 0.0

    def note(self, tokens: int, busy_s: float) -> None:
        """A request of so many tokens has ended, after so much busy time since the last end."""
        kept = 0.5 ** (busy_s / _HALF_LIFE_S)
        self._tokens = self._tokens * kept + tokens
        self._busy_s = self._busy_s * kept + busy_s

    @property
    def tokens_per_s(self) -> float | None:
        """None as long as nothing is known."""
        return self._tokens / self._busy_s if self._busy_s >= _SHORTEST_S and self._tokens > 0 else None

    def time_for(self, tokens: int) -> int:
        """Whole seconds in which so many tokens are taken in; 1 at least, and as long as nothing is known."""
        rate = self.tokens_per_s
        return 1 if rate is None else max(1, math.ceil(tokens / rate))
