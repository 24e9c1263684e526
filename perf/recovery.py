"""How long after `kill -9` of each process a token comes again: .venv/bin/python perf/recovery.py

Writes perf/results/recovery.json and prints the rows.
"""

import json
from pathlib import Path

from slipstream.commands import Request, open_context
from slipstream.perf.provenance import provenance
from slipstream.perf.recovery import measure_recovery
from slipstream.pipeline import run_stage, stages_for
from slipstream.progress import reporting

context = open_context(Request("smollm2-135m-cpu", ["runtime.ports=auto"], None, as_json=False))
with reporting("recovery") as report:
    for stage in stages_for(context.spec):
        run_stage(stage, context, report)
    rows = measure_recovery(context, report)
for row in rows:
    print(row)
result = {"machine": provenance(), "rows": rows}
Path(context.root / "perf" / "results" / "recovery.json").write_text(json.dumps(result, indent=2) + "\n")
