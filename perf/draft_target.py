"""What draft-target speculation and logits cost on the embedded server: .venv/bin/python perf/draft_target.py

Writes perf/results/draft_target.json and prints the rows. Takes about two minutes once the engines are built.
"""

import json
from pathlib import Path

from slipstream.commands import Request, open_context
from slipstream.perf.draft_target import measure_draft_target
from slipstream.perf.provenance import provenance
from slipstream.pipeline import run_stage, stages_for
from slipstream.progress import reporting

context = open_context(Request("smollm2-135m-cpu-draft", ["runtime.ports=auto"], None, as_json=False))
with reporting("draft-target") as report:
    for stage in stages_for(context.spec):
        run_stage(stage, context, report)
    found = measure_draft_target(context, report)
for row in (*found["speculation"], *found["logits"]):
    print(row)
result = {"machine": provenance(), **found}
Path(context.root / "perf" / "results" / "draft_target.json").write_text(json.dumps(result, indent=2) + "\n")
