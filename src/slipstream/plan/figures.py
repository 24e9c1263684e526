"""The figures of a plan in one place: what the document, the terse form and the JSON all quote."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from importlib import resources

from slipstream.plan.calibration import Calibration, Interval
from slipstream.plan.candidates import LOAD, Candidate
from slipstream.plan.catalogue import known_model
from slipstream.plan.memory import requests_in_kv
from slipstream.plan.search import Plan
from slipstream.plan.speculation import Speculation, break_even, speculate

_DRAFTS = {"Llama 3.1": "Llama 3.2 1B", "Llama 3.3": "Llama 3.2 1B", "Qwen3": "Qwen3 0.6B", "Qwen2.5": "Qwen2.5 0.5B"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """When to add a replica, and what to alert on."""

    outstanding_per_replica: int  # active and waiting requests at which another replica is started
    kv_fraction: float  # of the KV blocks, above which new requests wait
    query: str  # Prometheus, for a KEDA ScaledObject


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftAdvice:
    """Whether a draft model would pay."""

    draft: str
    acceptance: float
    rows: tuple[Speculation, ...]
    break_even_batch: int | None


def targets(plan: Plan) -> Targets:
    """Autoscaling targets of the chosen configuration."""
    return Targets(
        outstanding_per_replica=max(1, math.floor(LOAD * plan.chosen.batch)),
        kv_fraction=0.9,
        query='sum(nv_trt_llm_request_metrics{request_type=~"active|waiting"})',
    )


def requests_per_s(plan: Plan) -> Interval:
    """What all replicas finish at full load."""
    return plan.chosen.tokens_per_s.scaled(1 / plan.input.workload.output_tokens)


def kv_requests(plan: Plan) -> int:
    """Requests of mean length that the KV cache of one replica holds."""
    case = plan.chosen.case
    tokens = case.input_tokens + case.output_tokens
    return requests_in_kv(case.model.shape, plan.chosen.memory, case.kv, case.split, tokens)


def without_one_replica(plan: Plan) -> Interval | None:
    """Tokens a second while one replica is gone; None when there is only one."""
    chosen = plan.chosen
    if chosen.replicas < 2:
        return None
    return chosen.tokens_per_s.scaled((chosen.replicas - 1) / chosen.replicas)


def draft_advice(plan: Plan, known: Calibration) -> DraftAdvice | None:
    """Speculation with the draft that was named, or the family's small one; None where there is none."""
    wanted = plan.input.model.draft
    if wanted is None:
        family = next((name for name in _DRAFTS if plan.model.name.startswith(name)), None)
        wanted = _DRAFTS[family] if family else None
    draft = known_model(wanted) if wanted else None
    if draft is None or draft.shape.parameters * 8 > plan.model.shape.parameters:
        return None
    rows = speculate(plan.chosen.case, draft, known.coefficients, plan.input.workload.acceptance)
    return DraftAdvice(
        draft=draft.name, acceptance=plan.input.workload.acceptance, rows=rows, break_even_batch=break_even(rows)
    )


def bottleneck(candidate: Candidate) -> str:
    """What takes most of an iteration, with its share."""
    name, share = candidate.limits[0]
    return f"{name} ({100 * share:.0f} % of an iteration)"


def data_digest() -> str:
    """Of the catalogues and the calibration: the same digest and input give the same plan."""
    digest = hashlib.sha256()
    directory = resources.files("slipstream.plan") / "data"
    for name in sorted(entry.name for entry in directory.iterdir() if entry.is_file()):
        digest.update(name.encode() + (directory / name).read_bytes())
    return digest.hexdigest()[:16]


def said(interval: Interval, digits: int = 3) -> str:
    """`1,234 (1,100 to 1,380)`."""
    return f"{number(interval.value, digits)} ({number(interval.low, digits)} to {number(interval.high, digits)})"


def number(value: float, digits: int = 3) -> str:
    """With so many significant digits, and thousands apart."""
    if value == 0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{round(value, digits - 1 - math.floor(math.log10(abs(value)))):,.{places}f}"
