"""Learns from a handful of measurements on one's own machines: rows like the published ones, with their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from slipstream.errors import SlipstreamError
from slipstream.plan.calibration import QUANTITIES, Calibration
from slipstream.plan.cases import columns
from slipstream.plan.residual import Residual, Traits, condition, traits
from slipstream.plan.rows import Row, read_row


def learn(known: Calibration, measured: Sequence[Mapping[str, str]]) -> Calibration:
    """The calibration, conditioned on measured rows too. SlipstreamError: a row teaches nothing."""
    rows = [_read(number, cells) for number, cells in enumerate(measured, start=1)]
    residuals: dict[str, Residual] = {}
    for quantity in QUANTITIES:
        own = [row for row in rows if row.quantity == quantity]
        before = known.residuals[quantity]
        residuals[quantity] = _with_rows(before, own, known) if own else before
    return Calibration(known.coefficients, residuals, known.widths, known.unseen)


def _read(number: int, cells: Mapping[str, str]) -> Row:
    row = read_row(cells)
    if not row.value or row.value < 0 or row.rate is not None:
        raise SlipstreamError(
            f"measured row {number}: {cells.get('metric')} is {cells.get('value')!r} at {cells.get('extra')!r}",
            mend="give a positive value, at full load or at a concurrency",
        )
    return row


def _with_rows(before: Residual, own: Sequence[Row], known: Calibration) -> Residual:
    cases = [row.case for row in own]
    analytic = np.log(QUANTITIES[own[0].quantity](columns(cases), known.coefficients))
    off = np.log([(row.value or 0) / row.scale for row in own]) - analytic
    mine = traits(cases)
    together = Traits(
        numbers=np.concatenate([before.traits.numbers, mine.numbers]),
        words=np.concatenate([before.traits.words, mine.words]),
    )
    return condition(before.process, together, np.concatenate([before.errors, off]))
