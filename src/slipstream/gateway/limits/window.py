"""A sliding minute."""

from __future__ import annotations

import math

from slipstream.gateway.limits.values import MINUTE_S


class SlidingMinute:
    """Amounts of the last minute, kept by the second in which they came.

    An amount counts from its second until that second is a whole minute past, so that no 60 seconds, wherever they
    begin, hold more than the limit; in exchange an amount counts up to a second longer than it had to. There are never
    more than 61 seconds to keep.
    """

    def __init__(self) -> None:
        self._amounts: dict[int, int] = {}  # oldest first: the clock does not run backwards
        self.used = 0

    def forget(self, now_s: float) -> None:
        """Drop what no longer counts; call it before anything else."""
        first = math.floor(now_s) - MINUTE_S
        while self._amounts and (oldest := next(iter(self._amounts))) < first:
            self.used -= self._amounts.pop(oldest)

    def add(self, second: int, amount: int) -> None:
        self._amounts[second] = self._amounts.get(second, 0) + amount
        self.used += amount

    def give_back(self, second: int, amount: int) -> None:
        """Take `amount` off what came in `second`; nothing happens if that counts no longer."""
        held = self._amounts.get(second)
        if held is None:
            return
        self.used -= amount
        if held == amount:
            del self._amounts[second]
        else:
            self._amounts[second] = held - amount

    def wait_s(self, amount: int, limit: int, now_s: float) -> float:
        """Time until `amount` fits, if nothing else comes; 0 if it does now."""
        over = self.used + amount - limit
        if over <= 0:
            return 0
        for second, held in self._amounts.items():
            over -= held
            if over <= 0:
                return second + MINUTE_S + 1 - now_s
        return MINUTE_S + 1

    def reset_s(self, now_s: float) -> float:
        """Time until nothing counts."""
        return max(self._amounts) + MINUTE_S + 1 - now_s if self._amounts else 0
