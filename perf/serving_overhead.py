"""Every way through the server against the bare engine: .venv/bin/python perf/serving_overhead.py [ROUNDS | --quick]

Takes about eleven minutes with its three rounds. Writes perf/results/serving_overhead.json and the table of
docs/serving-performance.md; --quick tries the command in a minute or two and writes nothing.
"""

import json
import sys
from dataclasses import asdict

from slipstream.commands import Request, open_context
from slipstream.perf.markdown import put_section
from slipstream.perf.provenance import provenance
from slipstream.perf.serving_overhead import full_loads, measure_overhead, overhead_table, quick_loads
from slipstream.pipeline import run_stage, stages_for
from slipstream.progress import reporting

ROUNDS = 3
is_quick = "--quick" in sys.argv
rounds = int(sys.argv[1]) if len(sys.argv) > 1 and not is_quick else ROUNDS
context = open_context(Request("smollm2-135m-cpu", ["runtime.ports=auto"], None, as_json=False))
root = context.root
with reporting("measuring") as report:
    for stage in stages_for(context.spec):
        run_stage(stage, context, report)
    text = (root / "quantize" / "calibration" / "calibration.txt").read_text()
    rows = measure_overhead(context, text, quick_loads() if is_quick else full_loads(rounds), 1, report)
print(overhead_table(rows))
if not is_quick:
    result = {"rounds": rounds, "machine": provenance(), "rows": [asdict(row) for row in rows]}
    (root / "perf" / "results" / "serving_overhead.json").write_text(json.dumps(result, indent=2) + "\n")
    put_section(root / "docs" / "serving-performance.md", "serving_overhead", overhead_table(rows))
