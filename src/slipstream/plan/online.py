"""Published online measurements (arrival rate against TTFT and ITL), as rows of a closed loop and as simulations.

By Little's law a server that finishes X requests a second, each staying TTFT + (output - 1) ITL seconds, holds that
many at once; so a load point of an open loop says how long an iteration takes at a known batch.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from slipstream.plan.calibration import Calibration
from slipstream.plan.cases import Case, Floats, active_requests
from slipstream.plan.replica import Request, step_times
from slipstream.plan.rows import Row, read_row
from slipstream.plan.simulate import Cluster, Outcome

_REQUESTS = 500  # of each load point of the published table
# Sigma of log-normal lengths. The shape 202/214 is a data set's mean, not one length: at full load its throughput is a
# third below that of equal lengths, since the longest replies end alone; 0.7 meets the published 202/214 throughputs.
_SPREADS = {(202, 214): 0.7}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPoint:
    """One load point of a published online table."""

    row: Row  # of its ITL
    cells: Mapping[str, str]
    requests_per_s: float  # offered; infinite: all at once
    ttft_ms: float
    itl_ms: float
    output_tokens_per_s: float


def load_points(table: Iterable[Mapping[str, str]]) -> list[LoadPoint]:
    """Gather the metrics of each load point."""
    metrics: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    cells_of: dict[tuple[str, ...], Mapping[str, str]] = {}
    for cells in table:
        key = tuple(cells[name] for name in ("model", "gpu", "tp", "isl", "osl", "extra"))
        metrics[key][cells["metric"]] = float(cells["value"])
        if cells["metric"] == "mean_itl_ms":
            cells_of[key] = cells
    points = []
    for key, cells in cells_of.items():
        row, found = read_row(cells), metrics[key]
        assert row.rate is not None, cells
        points.append(
            LoadPoint(
                row=row,
                cells=cells,
                requests_per_s=row.rate,
                ttft_ms=found["mean_ttft_ms"],
                itl_ms=found["mean_itl_ms"],
                output_tokens_per_s=found["total_output_tok_s"],
            )
        )
    return points


def closed_loop_rows(points: Iterable[LoadPoint]) -> list[Row]:
    """The load points of a steady stream as rows of TPOT at a known concurrency."""
    rows = []
    for point in points:
        case = point.row.case
        if math.isinf(point.requests_per_s) or point.itl_ms > point.ttft_ms:
            continue  # a burst is no steady state
        stay_s = (point.ttft_ms + (case.output_tokens - 1) * point.itl_ms) / 1000
        held = point.output_tokens_per_s / case.output_tokens * stay_s
        rows.append(replace(point.row, case=replace(case, concurrency=max(held, 1.0)), rate=None))
    return rows


def simulate_rate(case: Case, known: Calibration, requests_per_s: float, *, seed: int = 0) -> Outcome:
    """500 requests at a rate (Poisson), or all at once, to one replica."""
    spread = _SPREADS.get((int(case.input_tokens), int(case.output_tokens)), 0.0)
    whole = replace(case, concurrency=None, requests=None)
    capacity = active_requests(whole)
    tokens = case.input_tokens + case.output_tokens
    times = step_times(
        whole, known, max_batch=max(1, min(capacity, 512)), kv_capacity_tokens=int((capacity + 1) * (tokens + 32))
    )
    random = np.random.default_rng(seed)
    arrivals = np.zeros(_REQUESTS)
    if not math.isinf(requests_per_s):
        drawn = np.cumsum(random.exponential(1, _REQUESTS))
        arrivals = drawn * (_REQUESTS / requests_per_s / drawn[-1])  # the rate is met exactly, whatever was drawn
    prompts, replies = (_lengths(random, mean, spread) for mean in (case.input_tokens, case.output_tokens))
    requests = [Request(float(at), int(i), int(o)) for at, i, o in zip(arrivals, prompts, replies, strict=True)]
    return Cluster(times=times, size=1, policy="round_robin").run(requests)


def _lengths(random: np.random.Generator, mean: float, spread: float) -> Floats:
    drawn = np.exp(random.normal(-spread * spread / 2, spread, _REQUESTS))
    return np.asarray(np.maximum(1, np.round(mean * drawn / drawn.mean())))
