"""When a draft model pays: drafting and verifying against plain decoding, by batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from slipstream.plan.cases import Case, columns
from slipstream.plan.catalogue import Model
from slipstream.plan.cost import step_seconds

DEPTHS = (1, 2, 3, 4, 5, 6, 8, 10)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """The best depth at one batch, and what it brings."""

    batch: int
    depth: int
    tokens_per_cycle: float  # accepted, and the one that verification adds
    speedup: float  # of the time between tokens; below 1 drafting costs


def expected_tokens(acceptance: float, depth: int) -> float:
    """Tokens that one cycle yields when each drafted one is right with chance `acceptance`, independently.

    Leviathan, Kalman and Matias (2023), equation 1.
    """
    if acceptance >= 1:
        return float(depth + 1)
    return (1 - acceptance ** (depth + 1)) / (1 - acceptance)


def speculate(case: Case, draft: Model, k: Mapping[str, float], acceptance: float) -> tuple[Speculation, ...]:
    """For growing batches the depth that pays most; draft and target share GPUs and parallelism."""
    return tuple(_best(case, draft, k, acceptance, batch) for batch in _BATCHES)


def break_even(rows: tuple[Speculation, ...]) -> int | None:
    """The largest batch at which drafting still pays, or None when it never does."""
    paying = [row.batch for row in rows if row.speedup > 1]
    return max(paying) if paying else None


def _best(case: Case, draft: Model, k: Mapping[str, float], acceptance: float, batch: int) -> Speculation:
    target = columns([replace(case, concurrency=float(batch))])
    drafting = columns([replace(case, model=draft, concurrency=float(batch))])
    running, nothing = np.array([float(batch)]), np.zeros(1)
    plain = float(step_seconds(target, k, running, nothing)[0])
    one_draft = float(step_seconds(drafting, k, running, nothing)[0])
    rows = []
    for depth in DEPTHS:
        tokens = expected_tokens(acceptance, depth)
        cycle = depth * one_draft + float(step_seconds(target, k, running, nothing, tokens_per_reply=depth + 1)[0])
        rows.append(Speculation(batch=batch, depth=depth, tokens_per_cycle=tokens, speedup=plain * tokens / cycle))
    return max(rows, key=lambda row: row.speedup)
