"""Time between tokens while a 4,000-token prompt is read: .venv/bin/python perf/long_prompts.py [ROUNDS]

Takes some minutes: one server for each way of reading. Writes perf/results/long_prompts.json and the table of
docs/in-flight-batching.md. The engine's context is longer than the default's: it has a directory of its own.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from slipstream.commands import Request, open_context
from slipstream.perf.long_prompts import long_prompt_table, measure_long_prompts
from slipstream.perf.markdown import put_section
from slipstream.perf.provenance import provenance
from slipstream.pipeline import run_stage, stages_for
from slipstream.progress import reporting

STREAMS, PROMPT_TOKENS = 8, 4000
ENGINE = ["runtime.ports=auto", "engine.max_seq_len=6144", "engine.max_input_len=6000", "engine.max_num_tokens=6144"]
WAYS = [["runtime.enable_chunked_context=false"]]
WAYS += [[f"runtime.prefill_chunk_tokens={tokens}"] for tokens in (2048, 1024, 512, 256, 128)]

rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
rows = []
for way in WAYS:
    context = open_context(Request("smollm2-135m-cpu", [*ENGINE, *way], Path("build/long-prompts"), as_json=False))
    text = (context.root / "quantize/calibration/calibration.txt").read_text()
    with reporting(" ".join(way)) as report:
        for stage in stages_for(context.spec):
            run_stage(stage, context, report)
        rows.append(
            measure_long_prompts(
                context, text, streams=STREAMS, prompt_tokens=PROMPT_TOKENS, rounds=rounds, report=report
            )
        )
    print(rows[-1])
result = {"machine": provenance(), "rounds": rounds, "rows": [asdict(row) for row in rows]}
(context.root / "perf/results/long_prompts.json").write_text(json.dumps(result, indent=2) + "\n")
put_section(context.root / "docs/in-flight-batching.md", "long_prompts", long_prompt_table(rows))
