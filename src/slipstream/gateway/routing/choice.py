"""Which backend takes a request: the one that is preferred, unless it is much busier than the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """How much busier than the average a preferred backend may be."""

    factor: float
    slack_tokens: int

    def of(self, loads: Mapping[str, int], cost: int) -> float:
        """Most outstanding tokens that a preferred backend may have with a request of `cost` tokens."""
        return self.factor * (sum(loads.values()) + cost) / len(loads) + self.slack_tokens


def choose(loads: Mapping[str, int], preferred: Sequence[str], *, cost: int, bound: Bound) -> str:
    """The first of `preferred` within the bound, else the least busy; of equals the first.

    `loads` are the outstanding tokens of the backends that may be chosen, at least one; `preferred` are some of them.
    """
    most = bound.of(loads, cost)
    within = next((address for address in preferred if loads[address] + cost <= most), None)
    return within if within is not None else min(loads, key=lambda address: loads[address])
