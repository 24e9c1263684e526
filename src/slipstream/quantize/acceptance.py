"""How many of a draft model's tokens its target accepts under greedy decoding.

Greedy acceptance is a comparison: a draft token is accepted where it is the target's own choice. So the whole run of
draft-target speculation follows from two sequences: what the target chooses after each prefix of its own greedy text,
and what the draft chooses after the same prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.quantize.accuracy.statistics import wilson


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What speculation would come to on the texts that were decoded."""

    positions: int
    agreement: float  # share of positions where draft and target choose the same token
    agreement_low: float  # 95 % (Wilson), as if positions of one text were independent: the true one is wider
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
    interval = wilson(agreeing, positions)
    return Acceptance(
        positions=positions,
        agreement=agreeing / positions,
        agreement_low=interval.low,
        agreement_high=interval.high,
        max_draft_len=max_draft_len,
        tokens_per_step=positions / steps,
    )


def _steps(agrees: Sequence[bool], max_draft_len: int) -> int:
    steps, position = 0, 0
    while position < len(agrees):
        accepted = 0
        while accepted < max_draft_len and position + accepted < len(agrees) and agrees[position + accepted]:
            accepted += 1
        position += accepted + 1
        steps += 1
    return steps
