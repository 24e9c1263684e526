"""Fit the planner's cost model to perf/published: .venv/bin/python perf/fit_planner.py

Writes coefficients.json and anchors.npz into src/slipstream/plan/data; the same tables give the same files.
"""

from pathlib import Path

from slipstream.plan.calibration import save
from slipstream.plan.fit import (
    errors,
    fit_coefficients,
    fit_process,
    interval_width,
    read_tables,
    samples,
    starting_process,
)

ROUNDS = 220
root = Path(__file__).resolve().parents[1]
data = samples(read_tables(sorted((root / "perf" / "published").glob("*.csv"))))
coefficients = fit_coefficients(data)
left = {name: errors(sample, coefficients) for name, sample in data.items()}
processes = {
    name: fit_process(sample, left[name], starting_process(), rounds=ROUNDS) for name, sample in data.items()
}
save(
    root / "src" / "slipstream" / "plan" / "data",
    coefficients=coefficients,
    processes=processes,
    widths={name: interval_width(processes[name], data[name], left[name]) for name in data},
    anchors={name: (data[name].traits, left[name]) for name in data},
)
print({name: round(value, 4) for name, value in coefficients.items()})
