"""Fit the planner's cost model to perf/published: .venv/bin/python perf/fit_planner.py [ROUNDS]

Writes coefficients.json and anchors.npz into src/slipstream/plan/data. The search for hyperparameters continues from
those that are there; ROUNDS (default 0: keep them) says how many more to try.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from slipstream.plan.calibration import load, save
from slipstream.plan.fit import (
    errors,
    fit_coefficients,
    fit_process,
    interval_width,
    online_widths,
    read_tables,
    samples,
)
from slipstream.plan.online import load_points

rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 0
root = Path(__file__).resolve().parents[1]
out = root / "src" / "slipstream" / "plan" / "data"
tables = root / "perf" / "published"
data = samples(read_tables(sorted(tables.glob("*.csv"))))
coefficients = fit_coefficients(data)
left = {name: errors(sample, coefficients) for name, sample in data.items()}
before = load(out).residuals
processes = {}
for name, sample in data.items():
    processes[name] = fit_process(sample, left[name], before[name].process, rounds=rounds)
    print(name, processes[name], flush=True)
with (tables / "triton_online_v0.14.csv").open() as file:
    points = load_points(csv.DictReader(file))
save(
    out,
    coefficients=coefficients,
    processes=processes,
    widths={
        **{name: interval_width(processes[name], data[name], left[name]) for name in data},
        **online_widths(points, coefficients),
    },
    unseen={name: float(np.quantile(np.abs(values), 0.9)) for name, values in left.items()},
    anchors={name: (data[name].traits, left[name]) for name in data},
)
print({name: round(value, 4) for name, value in coefficients.items()})
