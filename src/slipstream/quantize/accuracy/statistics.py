"""Intervals and tests for shares of right answers, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

_Z95 = 1.959963984540054  # of the normal distribution, two-sided 95 %


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


def wilson(right: int, items: int) -> Interval:
    """Interval of a share `right / items`; unlike the normal one it stays within 0..1 and is honest near them."""
    share, square = right / items, _Z95**2
    centre = (share + square / (2 * items)) / (1 + square / items)
    half = _Z95 / (1 + square / items) * math.sqrt(share * (1 - share) / items + square / (4 * items**2))
    return Interval(low=max(0.0, centre - half), high=min(1.0, centre + half))


def paired_difference(lost: int, won: int, items: int) -> Interval:
    """Interval of (won - lost) / items for the same items answered twice: Agresti and Min's, a Wald interval of the
    counts with half an item added to each of the four cells, without which no change at all would look certain.
    """
    lost_more, won_more, total = lost + 0.5, won + 0.5, items + 2
    difference = (won_more - lost_more) / total
    variance = ((lost_more + won_more) / total - difference**2) / total
    half = _Z95 * math.sqrt(variance)
    return Interval(low=max(-1.0, difference - half), high=min(1.0, difference + half))


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p-value of McNemar's test: a fair coin for every item whose answer changed."""
    changed, fewer = lost + won, min(lost, won)
    ways = of_this_count = 1  # of `changed` over 0, then 1, … : each from the one before
    for count in range(fewer):
        of_this_count = of_this_count * (changed - count) // (count + 1)
        ways += of_this_count
    return min(1.0, 2 * ways / (1 << changed))
