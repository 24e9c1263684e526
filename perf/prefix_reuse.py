"""Time to the first token with and without a shared prefix: .venv/bin/python perf/prefix_reuse.py [REPETITIONS]

Takes about a minute. Writes perf/results/prefix_reuse.json and the table of docs/in-flight-batching.md.
"""

import json
import sys
from dataclasses import asdict

from slipstream.commands import Request, open_context
from slipstream.perf.markdown import put_section
from slipstream.perf.prefix_reuse import measure_reuse, reuse_table
from slipstream.perf.provenance import provenance
from slipstream.pipeline import run_stage, stages_for
from slipstream.progress import reporting

context = open_context(Request("smollm2-135m-cpu", ["runtime.ports=auto"], None, as_json=False))
repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 20
with reporting("prefixes") as report:
    for stage in stages_for(context.spec):
        run_stage(stage, context, report)
    rows = measure_reuse(
        context,
        (context.root / "quantize/calibration/calibration.txt").read_text(),
        prefix_lengths=(250, 1000, 1750),
        question_tokens=24,
        repetitions=repetitions,
        report=report,
    )
result = {"machine": provenance(), "rows": [asdict(row) for row in rows]}
(context.root / "perf/results/prefix_reuse.json").write_text(json.dumps(result, indent=2) + "\n")
put_section(context.root / "docs/in-flight-batching.md", "prefix_reuse", reuse_table(rows))
print(reuse_table(rows))
