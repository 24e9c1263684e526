"""How often batch composition flips a near-tie, in both execution modes: .venv/bin/python perf/batch_invariance.py

Writes perf/results/batch_invariance.json and prints the rows.
"""

import json
from pathlib import Path

from slipstream.commands import Request, open_context
from slipstream.perf.batch_invariance import measure_invariance
from slipstream.perf.provenance import provenance
from slipstream.pipeline import run_stage, stages_for
from slipstream.progress import reporting

PROMPTS = 100
rows = []
for execution in ("performance", "accuracy"):
    sets = ["runtime.ports=auto", f"runtime.execution={execution}"]
    context = open_context(Request("smollm2-135m-cpu", sets, None, as_json=False))
    text = (context.root / "quantize" / "calibration" / "held_out.txt").read_text().split()
    prompts = [" ".join(text[start * 12 : start * 12 + 24]) for start in range(PROMPTS)]
    with reporting(execution) as report:
        for stage in stages_for(context.spec):
            run_stage(stage, context, report)
        rows.append(measure_invariance(context, prompts, tokens=64, at_once=16, report=report))
    print(rows[-1])
result = {"machine": provenance(), "rows": rows}
Path(context.root / "perf" / "results" / "batch_invariance.json").write_text(json.dumps(result, indent=2) + "\n")
