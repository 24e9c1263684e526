"""Errors of the planner on rows that it was not fitted to: .venv/bin/python perf/judge_planner.py

Writes perf/results/planner_accuracy.json and prints the rows. Run perf/fit_planner.py first if the tables changed.
"""

import csv
import json
from dataclasses import asdict
from pathlib import Path

from slipstream.plan.calibration import calibration
from slipstream.plan.fit import GROUPS, read_tables, samples
from slipstream.plan.judge import judge, judge_online
from slipstream.plan.online import load_points
from slipstream.progress import reporting

root = Path(__file__).resolve().parents[1]
data = samples(read_tables(sorted((root / "perf" / "published").glob("*.csv"))))
fitted = calibration()
verdicts = []
with reporting("judge") as report:
    for quantity in data:
        for left_out in GROUPS:
            verdict = judge(
                data,
                quantity=quantity,
                left_out=left_out,
                whole=fitted.coefficients,
                process=fitted.residuals[quantity].process,
                width=fitted.widths[quantity],
                unseen=fitted.unseen[quantity],
                report=report,
            )
            print({key: round(v, 4) if isinstance(v, float) else v for key, v in asdict(verdict).items()}, flush=True)
            verdicts.append(asdict(verdict))
with (root / "perf" / "published" / "triton_online_v0.14.csv").open() as file:
    points = load_points(csv.DictReader(file))
for verdict in judge_online(data, points, fitted.widths, fitted.coefficients):
    print({key: round(v, 4) if isinstance(v, float) else v for key, v in asdict(verdict).items()})
    verdicts.append(asdict(verdict))
result = {"verdicts": verdicts}
(root / "perf" / "results" / "planner_accuracy.json").write_text(json.dumps(result, indent=2) + "\n")
