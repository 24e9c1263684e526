"""Tokens a second through the gateway and past it: .venv/bin/python perf/gateway_throughput.py [ROUNDS]

Serves smollm2-135m-cpu with its gateway and asks both ways in turns. Writes perf/results/gateway_throughput.json and
the table of docs/gateway-performance.md.
"""

import json
import sys
from dataclasses import asdict

from slipstream.commands import Request, open_context
from slipstream.perf.gateway_throughput import ThroughputLoad, measure_throughput, throughput_table
from slipstream.perf.markdown import put_section
from slipstream.perf.provenance import provenance
from slipstream.pipeline import run_stage, stages_for
from slipstream.progress import reporting

context = open_context(Request("smollm2-135m-cpu", ["runtime.ports=auto"], None, as_json=False))
load = ThroughputLoad(**({"rounds": int(sys.argv[1])} if len(sys.argv) > 1 else {}))
with reporting("throughput") as report:
    for stage in stages_for(context.spec):
        run_stage(stage, context, report)
    text = (context.root / "quantize/calibration/calibration.txt").read_text()
    found = measure_throughput(context, text, load, report)
result = {"machine": provenance(), **asdict(found)}
(context.root / "perf/results/gateway_throughput.json").write_text(json.dumps(result, indent=2) + "\n")
put_section(context.root / "docs/gateway-performance.md", "gateway_throughput", throughput_table(found))
print(throughput_table(found))
