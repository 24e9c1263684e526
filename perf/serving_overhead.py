"""Served engine against the bare engine, one run: .venv/bin/python perf/serving_overhead.py [ROUNDS]

Writes perf/results/serving_overhead.json and prints the table.
"""

import json
import sys
from pathlib import Path

from slipstream.commands import Request, open_context
from slipstream.perf.provenance import provenance
from slipstream.perf.serving_overhead import Load, measure_overhead
from slipstream.pipeline import run_stage, stages_for
from slipstream.progress import reporting

context = open_context(Request("smollm2-135m-cpu", ["runtime.ports=auto"], None, as_json=False))
load = Load(rounds=int(sys.argv[1])) if len(sys.argv) > 1 else Load()
with reporting("measuring") as report:
    for stage in stages_for(context.spec):
        run_stage(stage, context, report)
    text = (context.root / "quantize" / "calibration" / "calibration.txt").read_text()
    rows = measure_overhead(context, text, load, report)
result = {"load": {name: getattr(load, name) for name in load.__slots__}, "machine": provenance(), "rows": rows}
path = Path(context.root / "perf" / "results" / "serving_overhead.json")
path.write_text(json.dumps(result, indent=2) + "\n")
for row in rows:
    print("  ".join(f"{name} {value}" for name, value in row.items()))
