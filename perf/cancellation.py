"""How soon a client that goes away frees its place in the engine: .venv/bin/python perf/cancellation.py

Writes perf/results/cancellation.json and the table of docs/in-flight-batching.md.
"""

import json
from dataclasses import asdict
from pathlib import Path

from slipstream.commands import Request, open_context
from slipstream.perf.cancellation import cancellation_table, measure_cancellation
from slipstream.perf.markdown import put_section
from slipstream.perf.provenance import provenance
from slipstream.pipeline import run_stage, stages_for
from slipstream.progress import reporting

context = open_context(Request("smollm2-135m-cpu", ["runtime.ports=auto"], None, as_json=False))
with reporting("cancellation") as report:
    for stage in stages_for(context.spec):
        run_stage(stage, context, report)
    rows = measure_cancellation(context, report)
result = {"machine": provenance(), "rows": [asdict(row) for row in rows]}
Path(context.root / "perf" / "results" / "cancellation.json").write_text(json.dumps(result, indent=2) + "\n")
put_section(context.root / "docs" / "in-flight-batching.md", "cancellation", cancellation_table(rows))
print(cancellation_table(rows))
