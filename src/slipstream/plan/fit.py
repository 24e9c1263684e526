"""Fits the cost model to published rows: the analytic coefficients first, then what they leave over.

Judging is elsewhere (`slipstream.plan.judge`), so that no figure is quoted from rows that were fitted.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.errors import SlipstreamError
from slipstream.plan.calibration import QUANTITIES, Calibration
from slipstream.plan.cases import RUNTIMES, Columns, Floats, columns
from slipstream.plan.cost import COEFFICIENTS
from slipstream.plan.online import LoadPoint, closed_loop_rows, load_points, simulate_rate
from slipstream.plan.residual import NUMBERS, WORDS, Kernel, Process, Traits, covariance, traits
from slipstream.plan.rows import Row, read_row

NAMES = tuple(COEFFICIENTS)
_START = np.array([c.start for c in COEFFICIENTS.values()])
_SPREAD = np.array([c.spread for c in COEFFICIENTS.values()])
# Expected error of a row, as a logarithm: beyond twice this a row pulls with constant force (Huber), so that a few
# mismeasured rows do not bend the model. TTFT under a burst is dominated by how the load generator starts.
_ROW_ERROR = {"throughput": 0.08, "tpot": 0.08, "ttft": 5.0}
# Other servers share the hardware's terms and little else: their rows pull less.
_OTHER_RUNTIMES = 3
_STEPS = 25
_ONLINE = "triton_online"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Rows of one quantity, ready to be fitted."""

    quantity: str
    rows: tuple[Row, ...]
    columns: Columns
    traits: Traits
    measured: Floats  # logarithms of the quantity

    def without(self, left_out: NDArray[Any]) -> Sample:
        """The rows that are not marked in `left_out`."""
        return self.where(~left_out)

    def where(self, chosen: NDArray[Any]) -> Sample:
        """The marked rows."""
        picked = {name: getattr(self.columns, name)[chosen] for name in Columns.__slots__}
        return Sample(
            quantity=self.quantity,
            rows=tuple(row for row, keep in zip(self.rows, chosen, strict=True) if keep),
            columns=Columns(**picked),
            traits=Traits(numbers=self.traits.numbers[chosen], words=self.traits.words[chosen]),
            measured=self.measured[chosen],
        )


def read_tables(paths: Iterable[Path]) -> list[Row]:
    """Every row of the tables that a prediction is possible for and that states its load and number of GPUs."""
    rows = []
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            table = list(csv.DictReader(file))
        if path.stem.startswith(_ONLINE):
            rows += closed_loop_rows(load_points(table))
        else:
            rows += _offline_rows(table)
    return rows


def samples(rows: Sequence[Row]) -> dict[str, Sample]:
    """The rows by quantity."""
    found = {}
    for quantity in QUANTITIES:
        chosen = tuple(row for row in rows if row.quantity == quantity)
        if chosen:
            cases = [row.case for row in chosen]
            measured = np.log([(row.value or 0) / row.scale for row in chosen])
            found[quantity] = Sample(
                quantity=quantity, rows=chosen, columns=columns(cases), traits=traits(cases), measured=measured
            )
    return found


def fit_coefficients(data: Mapping[str, Sample], start: Mapping[str, float] | None = None) -> dict[str, float]:
    """Coefficients of least robust error, by damped Gauss-Newton on their logarithms; equal data, equal result."""
    at = np.log(np.array([start[name] for name in NAMES]) / _START) if start else np.zeros(len(NAMES))
    scale = np.concatenate([_row_errors(name, sample) for name, sample in data.items()])
    damping, best = 1e-2, _objective(data, at, scale)
    for _ in range(_STEPS):
        errors = _errors(data, at)
        pull = np.minimum(1, 2 * scale / np.maximum(np.abs(errors), 1e-12)) / scale**2
        slopes = np.stack([(_errors(data, at + 1e-4 * unit) - errors) / 1e-4 for unit in np.eye(len(at))], axis=1)
        normal = (slopes * pull[:, None]).T @ slopes + np.diag(1 / _SPREAD**2)
        gradient = (slopes * pull[:, None]).T @ errors + at / _SPREAD**2
        before = best
        while damping < 1e6:
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
            now = _objective(data, at - step, scale)
            if now < best:
                at, best, damping = at - step, now, damping / 5
                break
            damping *= 5
        if before - best < 1e-5 * before:
            break
    return {name: float(value) for name, value in zip(NAMES, _START * np.exp(at), strict=True)}


def errors(sample: Sample, coefficients: Mapping[str, float]) -> Floats:
    """log(measured / analytic) of the rows."""
    return np.asarray(sample.measured - np.log(QUANTITIES[sample.quantity](sample.columns, coefficients)))


def fit_process(sample: Sample, left: Floats, start: Process, *, rounds: int, seed: int = 0) -> Process:
    """Hyperparameters under which groups of rows are best foretold from the others: curves, models and GPUs.

    A random walk that keeps improvements, from `start`.
    """
    groups = [list(group_indices(sample, key).values()) for key in GROUPS.values()]
    random = np.random.default_rng(seed)
    at = _packed(start)
    stride = np.full(len(at), 0.4)
    best = _foretelling_loss(_unpacked(at), sample, left, groups)
    for _ in range(rounds):
        chosen = random.integers(len(at), size=random.integers(1, 4))
        tried = at.copy()
        tried[chosen] += random.normal(size=len(chosen)) * stride[chosen]
        tried = np.clip(tried, np.log(0.01), np.log(30))
        tried[0] = max(tried[0], np.log(0.02))
        loss = _foretelling_loss(_unpacked(tried), sample, left, groups)
        stride[chosen] = np.clip(stride[chosen] * (1.3 if loss < best else 0.95), 0.05, 1.5)
        if loss < best:
            at, best = tried, loss
    return _unpacked(at)


def foretold(process: Process, sample: Sample, left: Floats, groups: Sequence[NDArray[Any]]) -> tuple[Floats, Floats]:
    """Mean and deviation of each row's error given all rows outside of its group (block leave-out, in closed form)."""
    return _blocks_left_out(_precision(process, sample), process.noise, left, groups)


def interval_width(process: Process, sample: Sample, left: Floats) -> float:
    """Deviations that hold 90 % of the rows when each curve is foretold from the others."""
    mean, deviation = foretold(process, sample, left, list(group_indices(sample, GROUPS["curve"]).values()))
    return float(np.quantile(np.abs(left - mean) / deviation, 0.9))


def group_indices(sample: Sample, key: Callable[[Row], object]) -> dict[object, NDArray[Any]]:
    """Row numbers by group."""
    found: dict[object, list[int]] = defaultdict(list)
    for number, row in enumerate(sample.rows):
        found[key(row)].append(number)
    return {name: np.array(numbers) for name, numbers in found.items()}


def _curve(row: Row) -> object:
    case = row.case
    return (case.model.name, case.gpu.name, case.weights.name, case.split, case.runtime)


# A curve is a configuration in all its versions: its other shapes and loads are left out with it.
GROUPS: dict[str, Callable[[Row], object]] = {
    "curve": _curve,
    "model": lambda row: row.case.model.name,
    "gpu": lambda row: row.case.gpu.name,
}


def online_widths(points: Sequence[LoadPoint], coefficients: Mapping[str, float]) -> dict[str, float]:
    """Half of the 90 % interval of simulated load points, as a logarithm, by quantity."""
    known = Calibration(coefficients, {}, {}, {})
    off: dict[str, list[float]] = defaultdict(list)
    for point in points:
        outcome = simulate_rate(point.row.case, known, point.requests_per_s)
        off["online_ttft"].append(math.log(outcome.ttft_ms["mean"] / point.ttft_ms))
        off["online_tpot"].append(math.log(outcome.itl_ms["mean"] / point.itl_ms))
        off["online_throughput"].append(math.log(outcome.output_tokens_per_s / point.output_tokens_per_s))
    return {name: float(np.quantile(np.abs(values), 0.9)) for name, values in off.items()}


def _offline_rows(table: Iterable[Mapping[str, str]]) -> list[Row]:
    rows = []
    for cells in table:
        try:
            row = read_row(cells)
        except SlipstreamError:
            continue  # a configuration that the model refuses has no error to learn from
        if row.rate is None and row.value and cells["n_gpus"] != "0":
            rows.append(row)
    return rows


def _row_errors(quantity: str, sample: Sample) -> Floats:
    foreign = sample.columns.runtime >= RUNTIMES.index("vllm")
    return np.asarray(_ROW_ERROR[quantity] * np.where(foreign, _OTHER_RUNTIMES, 1))


def _errors(data: Mapping[str, Sample], at: Floats) -> Floats:
    k = dict(zip(NAMES, _START * np.exp(at), strict=True))
    return -np.concatenate([errors(sample, k) for sample in data.values()])


def _objective(data: Mapping[str, Sample], at: Floats, scale: Floats) -> float:
    size = np.abs(_errors(data, at) / scale)
    return float(np.where(size < 2, size**2, 4 * size - 4).sum() + ((at / _SPREAD) ** 2).sum())


def _precision(process: Process, sample: Sample) -> Floats:
    full = covariance(process, sample.traits, sample.traits)
    return np.asarray(np.linalg.inv(full + process.noise**2 * np.eye(len(full))))


def _blocks_left_out(
    precision: Floats, noise: float, left: Floats, groups: Sequence[NDArray[Any]]
) -> tuple[Floats, Floats]:
    weighted = precision @ left
    mean, deviation = np.zeros_like(left), np.zeros_like(left)
    for group in groups:
        block = np.linalg.inv(precision[np.ix_(group, group)])
        mean[group] = left[group] - block @ weighted[group]
        deviation[group] = np.sqrt(np.maximum(np.diag(block), noise**2))
    return mean, deviation


def _foretelling_loss(process: Process, sample: Sample, left: Floats, groups: list[list[NDArray[Any]]]) -> float:
    """Negative log-density under a Student t of four degrees: a row far off costs, and does not rule."""
    total, precision = 0.0, _precision(process, sample)
    for group in groups:
        mean, deviation = _blocks_left_out(precision, process.noise, left, group)
        total += float(np.mean(np.log(deviation) + 2.5 * np.log1p(((left - mean) / deviation) ** 2 / 4)))
    return total


def _packed(process: Process) -> Floats:
    values = [process.noise]
    for kernel in process.kernels:
        values += [kernel.amplitude, *kernel.scales, *(max(cost, 0.01) for cost in kernel.strangeness)]
    return np.log(values)


def _unpacked(at: Floats) -> Process:
    values = np.exp(at)
    width = 1 + len(NUMBERS) + len(WORDS)
    kernels = []
    for start in range(1, len(values), width):
        one = [float(value) for value in values[start : start + width]]
        kernels.append(
            Kernel(
                amplitude=one[0], scales=tuple(one[1 : 1 + len(NUMBERS)]), strangeness=tuple(one[1 + len(NUMBERS) :])
            )
        )
    return Process(kernels=tuple(kernels), noise=float(values[0]))
