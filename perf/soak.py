"""Mixed traffic for half an hour, a process killed every five minutes: .venv/bin/python perf/soak.py [--minutes 30]

Writes perf/results/soak.json; exits with 1 and says why if anything was wrong.
"""

import argparse
import json
import sys
from pathlib import Path

from slipstream.commands import Request, open_context
from slipstream.perf.soak import complaints, run_soak
from slipstream.pipeline import run_stage, stages_for
from slipstream.progress import reporting

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--minutes", type=float, default=30)
parser.add_argument("--kill-every-s", type=float, default=300)
parser.add_argument("--workers", type=int, default=6)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--out", type=Path, help="where to write instead")
arguments = parser.parse_args()
sets = ["runtime.ports=auto", "runtime.execution=accuracy"]
context = open_context(Request("smollm2-135m-cpu", sets, None, as_json=False))
with reporting("soak") as report:
    for stage in stages_for(context.spec):
        run_stage(stage, context, report)
    result = run_soak(
        context,
        minutes=arguments.minutes,
        kill_every_s=arguments.kill_every_s,
        workers=arguments.workers,
        seed=arguments.seed,
        report=report,
    )
target = arguments.out or Path(context.root / "perf" / "results" / "soak.json")
target.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
wrong = complaints(result)
print("\n".join([f"{result['requests']} requests, {len(wrong)} complaints: {target}", *wrong]))
sys.exit(1 if wrong else 0)
