"""`slipstream predict ROWS.csv`: for each row of a published table a prediction with its interval, or a reason."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slipstream.errors import SlipstreamError
from slipstream.plan.calibration import QUANTITIES, Calibration, Interval
from slipstream.plan.online import simulate_rate
from slipstream.plan.rows import Quantity, Row, read_row

_COLUMNS = ("model", "precision", "gpu", "n_gpus", "tp", "pp", "isl", "osl", "metric")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Of one row: an interval in the row's metric, or why there is none."""

    interval: Interval | None
    reason: str | None


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file. Raises SlipstreamError for a file without the columns of the published tables."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = [{key: value or "" for key, value in row.items() if key is not None} for row in reader]
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or [])]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SlipstreamError(f"{path}: not a CSV file: {error}", mend="give UTF-8 text with a header") from error
    if missing:
        raise SlipstreamError(
            f"{path}: no column {', '.join(missing)}", mend=f"give the columns {', '.join(_COLUMNS)} and extra"
        )
    return rows


def predict_rows(rows: Sequence[Mapping[str, str]], known: Calibration) -> list[Prediction]:
    """One prediction for each row, in their order."""
    read = [_read(row) for row in rows]
    found: list[Prediction | None] = [
        Prediction(interval=None, reason=row) if isinstance(row, str) else None for row in read
    ]
    for quantity in QUANTITIES:
        _predict_loops(read, found, quantity, known)  # type: ignore[arg-type]
    for number, row in enumerate(read):
        if isinstance(row, Row) and row.rate is not None:
            found[number] = Prediction(interval=_simulated(row, row.rate, known), reason=None)
    assert all(found), "every row has a prediction or a reason"
    return [prediction for prediction in found if prediction is not None]


def _read(row: Mapping[str, str]) -> Row | str:
    try:
        return read_row(row)
    except SlipstreamError as error:
        return error.message


def _predict_loops(
    read: Sequence[Row | str], found: list[Prediction | None], quantity: Quantity, known: Calibration
) -> None:
    """Closed loops and full load, all of one quantity at once."""
    numbers = [
        number
        for number, row in enumerate(read)
        if isinstance(row, Row) and row.rate is None and row.quantity == quantity
    ]
    rows = [row for number in numbers if isinstance(row := read[number], Row)]
    predicted = known.predict([row.case for row in rows], quantity)
    for number, row, interval in zip(numbers, rows, predicted, strict=True):
        found[number] = Prediction(interval=interval.scaled(row.scale), reason=None)


def _simulated(row: Row, requests_per_s: float, known: Calibration) -> Interval:
    """Open loops: 500 simulated requests."""
    outcome = simulate_rate(row.case, known, requests_per_s)
    value = {
        "ttft": outcome.ttft_ms["mean"],
        "tpot": outcome.itl_ms.get("mean", 0.0),
        "throughput": outcome.output_tokens_per_s * row.scale,
    }[row.quantity]
    half = known.widths[f"online_{row.quantity}"]
    return Interval(value=value, low=value * math.exp(-half), high=value * math.exp(half))
