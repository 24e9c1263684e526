"""How many of a draft model's tokens its target accepts under greedy decoding.

Greedy acceptance is a comparison: a draft token is accepted where it is the target's own choice. So the whole run of
draft-target speculation follows from two sequences: what the target chooses after each prefix of its own greedy text,
and what the draft chooses after the same prefixes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z_95 = 1.959964  # of the normal distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What speculation would come to on the texts that were decoded."""

    positions: int
    agreement: float  # share of positions where draft and target choose the same token
    agreement_low: (
        float  # 95 % interval (Wilson); positions of one text are not independent, so it is a lower bound of it
    )
    agreement_high: float
    max_draft_len: int
    tokens_per_step: float  # of the target, its own token included; 1.0 means that nothing was gained


def measure_acceptance(agrees: Sequence[Sequence[bool]], max_draft_len: int) -> Acceptance:
    """Walk through each text as the speculating engine would.

    `agrees[text][position]`: whether the draft, given the target's greedy text up to there, chooses as the target does.
    In one step up to `max_draft_len` agreeing tokens are accepted, and the target adds one of its own.
    """
    positions = sum(map(len, agrees))
    steps = sum(_steps(text, max_draft_len) for text in agrees)
    agreeing = sum(sum(text) for text in agrees)
    low, high = wilson(agreeing, positions)
    return Acceptance(
        positions=positions,
        agreement=agreeing / positions,
        agreement_low=low,
        agreement_high=high,
        max_draft_len=max_draft_len,
        tokens_per_step=positions / steps,
    )


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's score."""
    share, spread = successes / trials, Z_95**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)


def _steps(agrees: Sequence[bool], max_draft_len: int) -> int:
    steps, position = 0, 0
    while position < len(agrees):
        accepted = 0
        while accepted < max_draft_len and position + accepted < len(agrees) and agrees[position + accepted]:
            accepted += 1
        position += accepted + 1
        steps += 1
    return steps
