"""Judges the cost model on rows that it was not fitted to: whole curves, models and GPUs are left out in turn.

Coefficients are fitted again without each group and the residuals are conditioned without it. The hyperparameters of
the process (40 numbers a quantity) are those of the whole fit: the one thing that the left-out rows have touched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from slipstream.plan.calibration import QUANTITIES, Calibration, half_widths
from slipstream.plan.cases import Floats
from slipstream.plan.fit import GROUPS, Sample, errors, fit_coefficients, group_indices
from slipstream.plan.online import LoadPoint, simulate_rate
from slipstream.plan.residual import Process, condition
from slipstream.plan.rows import Row
from slipstream.progress import Reporter

_WORST = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Relative errors over rows that were left out."""

    quantity: str
    left_out: str
    rows: int
    groups: int
    median: float
    p90: float
    mean: float
    bias: float  # median of prediction / measurement - 1
    covered: float  # share of rows inside of their 90 % interval
    analytic_median: float  # of the analytic part alone
    analytic_p90: float
    worst: dict[str, float]  # medians of the groups that were foretold worst


def judge(
    data: Mapping[str, Sample],
    *,
    quantity: str,
    left_out: str,
    whole: Mapping[str, float],
    process: Process,
    width: float,
    unseen: float,
    report: Reporter,
) -> Verdict:
    """Leave out each group of `left_out` (a name of GROUPS) in turn and foretell its rows."""
    sample = data[quantity]
    groups = group_indices(sample, GROUPS[left_out])
    off, analytic, inside = (np.zeros(len(sample.rows)) for _ in range(3))
    for done, (name, rows) in enumerate(groups.items()):
        report(f"{quantity} without {left_out} {name}", done / len(groups))
        kept = {key: _without(other, GROUPS[left_out], name) for key, other in data.items()}
        k = fit_coefficients({key: other for key, other in kept.items() if other.rows}, start=whole)
        residual = condition(process, kept[quantity].traits, errors(kept[quantity], k))
        chosen = np.zeros(len(sample.rows), dtype=bool)
        chosen[rows] = True
        tested = sample.where(chosen)
        correction = residual.at(tested.traits)
        analytic[rows] = np.log(QUANTITIES[quantity](tested.columns, k)) - tested.measured
        off[rows] = analytic[rows] + correction.mean
        inside[rows] = np.abs(off[rows]) <= half_widths(residual, tested.traits, width=width, unseen=unseen)
    medians = {str(name): float(np.median(np.abs(np.expm1(off[rows])))) for name, rows in groups.items()}
    worst = dict(sorted(medians.items(), key=lambda item: -item[1])[:_WORST])
    return _verdict(quantity, left_out, len(groups), off, analytic, inside, worst)


def judge_online(
    data: Mapping[str, Sample], points: Sequence[LoadPoint], widths: Mapping[str, float], whole: Mapping[str, float]
) -> list[Verdict]:
    """Simulate each model's load points with coefficients that have not seen an online row of that model."""
    off: dict[str, list[float]] = {"online_ttft": [], "online_tpot": []}
    names = sorted({point.row.case.model.name for point in points})
    for name in names:
        kept = {
            key: sample.where(np.array([not _is_online(row, name) for row in sample.rows]))
            for key, sample in data.items()
        }
        known = Calibration(fit_coefficients(kept, start=whole), {}, {}, {})
        for point in points:
            if point.row.case.model.name == name:
                outcome = simulate_rate(point.row.case, known, point.requests_per_s)
                off["online_ttft"].append(math.log(outcome.ttft_ms["mean"] / point.ttft_ms))
                off["online_tpot"].append(math.log(outcome.itl_ms["mean"] / point.itl_ms))
    return [_online_verdict(name, np.array(values), len(names), widths[name]) for name, values in off.items()]


def _is_online(row: Row, model: str) -> bool:
    """Only the online tables name their latency `mean_itl_ms`."""
    return row.metric == "mean_itl_ms" and row.case.model.name == model


def _online_verdict(quantity: str, off: Floats, groups: int, width: float) -> Verdict:
    inside = (np.abs(off) <= width).astype(np.float64)
    return _verdict(quantity, "model", groups, off, off, inside, {})


def _without(sample: Sample, key: object, name: object) -> Sample:
    assert callable(key)
    return sample.where(np.array([key(row) != name for row in sample.rows], dtype=bool))


def _verdict(
    quantity: str, left_out: str, groups: int, off: Floats, analytic: Floats, inside: Floats, worst: dict[str, float]
) -> Verdict:
    relative, plain = np.expm1(off), np.abs(np.expm1(analytic))
    size = np.abs(relative)
    return Verdict(
        quantity=quantity,
        left_out=left_out,
        rows=len(off),
        groups=groups,
        median=float(np.median(size)),
        p90=float(np.quantile(size, 0.9)),
        mean=float(size.mean()),
        bias=float(np.median(relative)),
        covered=float(inside.mean()),
        analytic_median=float(np.median(plain)),
        analytic_p90=float(np.quantile(plain, 0.9)),
        worst=worst,
    )
