"""Speculation in the CPU engine: .venv/bin/python perf/speculation.py [--draft CHECKPOINT] [--rounds 5] [--streams 1,4]

CHECKPOINT is what quantize/distil_draft.py wrote. Writes perf/results/speculation.json and the table of
docs/speculation.md; with `--quick` it only prints the table of a short run.
"""

import argparse
from pathlib import Path

from slipstream.commands import Request, open_context
from slipstream.perf.serving_overhead import engine_settings
from slipstream.perf.speculation import Load, format_rows, measure_speculation, write_results
from slipstream.pipeline import run_stage, stages_for
from slipstream.progress import reporting
from slipstream.text.tokenizer import Tokenizer

parser = argparse.ArgumentParser(description="Plain, n-grams, a draft, and the control, in turns")
parser.add_argument("--draft", type=Path)
parser.add_argument("--rounds", type=int, default=Load().rounds)
parser.add_argument("--streams", default="1,4,8,16")
parser.add_argument("--quick", action="store_true")
given = parser.parse_args()
mode = f"draft_target, speculative_model: {given.draft.resolve()}" if given.draft else "ngram"
sets = [f"engine.speculation={{mode: {mode}, max_draft_len: {Load().draft_len}}}"]
context = open_context(Request("smollm2-135m-cpu", sets, Path("build/speculation"), as_json=False))
few = {"output_tokens": 32, "warm_up_tokens": 64} if given.quick else {}
load = Load(streams=tuple(map(int, given.streams.split(","))), rounds=given.rounds, **few)
with reporting("speculation") as report:
    for stage in stages_for(context.spec)[:-1]:  # up to the engines
        run_stage(stage, context, report)
    ids = Tokenizer.load(context.workspace.model).encode(Path("quantize/calibration/held_out.txt").read_text())
    draft = context.workspace.draft.engine if given.draft else None
    rows = measure_speculation(engine_settings(context), draft, ids, load, report)
if not given.quick:
    write_results(context.root, rows, load, draft=given.draft and given.draft.name)
print(format_rows(rows))
