"""In-flight batching against static batching: .venv/bin/python perf/static_batching.py [REQUESTS]

Takes about ten minutes on a quiet machine of two cores. Writes perf/results/static_batching.json, and the table
and plot of docs/in-flight-batching.md.
"""

import json
import sys
from dataclasses import asdict, replace

from slipstream.backend.pipeline import OpenVinoPipeline
from slipstream.commands import Request, open_context
from slipstream.perf.markdown import put_section
from slipstream.perf.provenance import provenance
from slipstream.perf.serving_overhead import engine_settings
from slipstream.perf.static_batching import compare_policies, read_lengths
from slipstream.perf.static_batching_report import batching_table, draw_batching, rows_of
from slipstream.pipeline import run_stage, stages_for
from slipstream.progress import reporting
from slipstream.text.tokenizer import Tokenizer

SHRINK, SHARES = 8, (0.4, 0.6, 0.8)  # the service behind the trace took 16k tokens, this engine takes 2k
context = open_context(Request("smollm2-135m-cpu", [], None, as_json=False))
root, engine = context.root, context.spec.engine
lengths = read_lengths(
    root / "perf/traces/azure_conversation_lengths.csv", shrink=SHRINK, max_seq_len=engine.max_seq_len
)
lengths = lengths[: int(sys.argv[1])] if len(sys.argv) > 1 else lengths
with reporting("batching") as report:
    for stage in stages_for(context.spec):
        run_stage(stage, context, report)
    ids = Tokenizer.load(context.workspace.model).encode((root / "quantize/calibration/calibration.txt").read_text())
    pipeline = OpenVinoPipeline(replace(engine_settings(context), enable_kv_cache_reuse=False))
    played = compare_policies(pipeline, lengths, ids, load_shares=SHARES, batch=engine.max_batch_size, report=report)
rows = rows_of(played)
result = {"machine": provenance(), "lengths_divided_by": SHRINK, "rows": [asdict(row) for row in rows]}
(root / "perf/results/static_batching.json").write_text(json.dumps(result, indent=2) + "\n")
draw_batching(rows, root / "docs/in-flight-batching.svg")
put_section(root / "docs/in-flight-batching.md", "static_batching", batching_table(rows))
print(batching_table(rows))
