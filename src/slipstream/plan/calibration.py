"""The fitted state of the cost model, as `slipstream.plan.fit` wrote it into the package, and predictions with it."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from slipstream.plan.cases import Case, Floats, columns
from slipstream.plan.cost import tokens_per_second, tpot_ms, ttft_ms
from slipstream.plan.residual import WORDS, Kernel, Process, Residual, Traits, condition, traits
from slipstream.plan.rows import Quantity

QUANTITIES = {"throughput": tokens_per_second, "tpot": tpot_ms, "ttft": ttft_ms}
_FILES = ("coefficients.json", "anchors.npz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A prediction, and the range that nine of ten measurements should fall into."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Interval:
        """In another unit."""
        return Interval(value=self.value * factor, low=self.low * factor, high=self.high * factor)

    def inverse(self, factor: float) -> Interval:
        """`factor` divided by it."""
        return Interval(value=factor / self.value, low=factor / self.high, high=factor / self.low)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Coefficients, and for each quantity what the published rows say beyond them."""

    coefficients: Mapping[str, float]
    residuals: Mapping[str, Residual]  # conditioned when first asked for
    widths: Mapping[str, float]  # standard deviations from the middle to the end of a 90 % interval
    unseen: Mapping[str, float]  # half-width added for a model, GPU, format or pipeline that no published row has

    def predict(self, cases: Sequence[Case], quantity: Quantity) -> list[Interval]:
        """Output tokens/s of a replica, or milliseconds, for each case; each must have room for one request."""
        if not cases:
            return []
        analytic = QUANTITIES[quantity](columns(cases), self.coefficients)
        residual = self.residuals[quantity]
        asked = traits(cases)
        correction = residual.at(asked)
        half = half_widths(residual, asked, width=self.widths[quantity], unseen=self.unseen[quantity])
        pipelines = np.array([case.split.pp > 1 for case in cases], dtype=np.float64)
        half = np.hypot(half, pipelines * self.unseen[quantity])
        return _intervals(np.log(analytic) + correction.mean, half)


def half_widths(residual: Residual, asked: Traits, *, width: float, unseen: float) -> Floats:
    """Halves of 90 % intervals, as logarithms; wider for a model, GPU or format that no known row has."""
    strange = np.zeros(len(asked.words), dtype=bool)
    for word in ("model", "gpu", "format"):
        column = WORDS.index(word)
        strange |= ~np.isin(asked.words[:, column], residual.traits.words[:, column])
    return np.asarray(np.hypot(width * residual.at(asked).deviation, strange * unseen))


@functools.cache
def calibration() -> Calibration:
    """The calibration that is shipped."""
    return load(Path(str(resources.files("slipstream.plan") / "data")))


def load(directory: Path) -> Calibration:
    """Read what `save` wrote."""
    facts = json.loads((directory / _FILES[0]).read_text(encoding="utf-8"))
    with np.load(directory / _FILES[1]) as stored:
        arrays = {name: stored[name] for name in stored.files}
    residuals = _Residuals(facts["processes"], arrays)
    return Calibration(facts["coefficients"], residuals, facts["widths"], facts["unseen"])


def save(
    directory: Path,
    *,
    coefficients: Mapping[str, float],
    processes: Mapping[str, Process],
    widths: Mapping[str, float],
    unseen: Mapping[str, float],
    anchors: Mapping[str, tuple[Traits, Floats]],
) -> None:
    """Write coefficients and hyperparameters as JSON, and the rows' traits and errors beside them."""
    facts = {
        "coefficients": dict(coefficients),
        "processes": {name: asdict(process) for name, process in processes.items()},
        "widths": dict(widths),
        "unseen": dict(unseen),
    }
    arrays: dict[str, Any] = {}
    for name, (known, errors) in anchors.items():
        arrays[f"{name}.numbers"] = known.numbers.astype(np.float32)
        arrays[f"{name}.words"] = known.words
        arrays[f"{name}.errors"] = errors.astype(np.float32)
    (directory / _FILES[0]).write_text(json.dumps(_rounded(facts), indent=1) + "\n", encoding="utf-8")
    np.savez_compressed(directory / _FILES[1], **arrays)


def _intervals(centre: Floats, half: Floats) -> list[Interval]:
    rows = zip(np.exp(centre), np.exp(centre - half), np.exp(centre + half), strict=True)
    return [Interval(value=float(value), low=float(low), high=float(high)) for value, low, high in rows]


class _Residuals(Mapping[str, Residual]):
    """Conditions each quantity's process on first use, since most verbs need one or two of them."""

    def __init__(self, processes: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        self._processes, self._arrays = processes, arrays
        self._made: dict[str, Residual] = {}

    def __getitem__(self, name: str) -> Residual:
        if name not in self._made:
            self._made[name] = _residual(name, self._processes[name], self._arrays)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._processes)

    def __len__(self) -> int:
        return len(self._processes)


def _residual(name: str, process: Any, stored: Mapping[str, Any]) -> Residual:
    kernels = tuple(
        Kernel(amplitude=k["amplitude"], scales=tuple(k["scales"]), strangeness=tuple(k["strangeness"]))
        for k in process["kernels"]
    )
    known = Traits(numbers=stored[f"{name}.numbers"].astype(np.float64), words=stored[f"{name}.words"])
    errors = stored[f"{name}.errors"].astype(np.float64)
    return condition(Process(kernels=kernels, noise=process["noise"]), known, errors)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
