"""Forms of quantized weights on the CPU engine: .venv/bin/python perf/engine_formats.py [ROUNDS]

Makes every recipe's checkpoint under build/engine_formats (minutes each, reused when up to date), writes
perf/results/engine_formats.json and prints the table of docs/engine-formats.md.
"""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from slipstream.commands import Request, open_context
from slipstream.perf.engine_formats import format_rows, measure_format, reference_logits
from slipstream.perf.provenance import provenance
from slipstream.pipeline import run_stage, stages_for
from slipstream.progress import reporting
from slipstream.text.tokenizer import Tokenizer

rounds, checkpoints = int(sys.argv[1]) if len(sys.argv) > 1 else 8, {}
with reporting("formats") as report, tempfile.TemporaryDirectory() as scratch:
    for recipe in ("none", "int8_wo", "int8_sq", "fp8", "int4_awq", "nvfp4"):
        sets, out = [f"quantization.recipe={recipe}"], Path("build") / "engine_formats" / recipe
        context = open_context(Request("smollm2-135m-cpu", sets, out, as_json=False))
        for stage in stages_for(context.spec)[:2]:  # the model and its checkpoint
            run_stage(stage, context, report)
        checkpoints[recipe] = context.workspace.checkpoint
    text = (context.root / "quantize" / "calibration" / "held_out.txt").read_text()
    ids = np.array(Tokenizer.load(context.workspace.model).encode(text)[: 8 * 128], np.int64).reshape(8, 128)
    reference = reference_logits(checkpoints["none"], ids, Path(scratch))
    rows = [
        row
        for path in checkpoints.values()
        for row in measure_format(path, checkpoints["int8_wo"], reference, ids, Path(scratch), rounds, report)
    ]
result = {"machine": provenance(), "rounds": rounds, "rows": [asdict(row) for row in rows]}
Path(context.root / "perf" / "results" / "engine_formats.json").write_text(json.dumps(result, indent=2) + "\n")
print(format_rows(rows))
