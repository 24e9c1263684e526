#!/usr/bin/env python3
"""Make a draft model of a deployment's model: `python quantize/distil_draft.py DEPLOYMENT OUT [--layers 4 --steps 75]`.

Writes a Hugging Face checkpoint into OUT, for `engine.speculation.speculative_model`; see docs/speculation.md. The text
is Wikipedia as the package `gensim` carries it; `make setup` of the development environment brings it.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from slipstream.commands import Request, open_context
from slipstream.pipeline import MODEL, run_stage
from slipstream.progress import reporting
from slipstream.quantize.corpora import packaged_text
from slipstream.quantize.distill import Distillation, distil_draft

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Keep some layers of a model and teach them what the whole says")
    parser.add_argument("deployment")
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=Distillation().layers, help="of the model, that are kept")
    parser.add_argument("--steps", type=int, default=Distillation().steps, help="of the optimizer")
    parser.add_argument("--seed", type=int, default=Distillation().seed)
    given = parser.parse_args()
    context = open_context(Request(given.deployment, [], None, as_json=False))
    settings = Distillation(layers=given.layers, steps=given.steps, seed=given.seed)
    given.out.mkdir(parents=True)
    with reporting("draft") as report:
        run_stage(MODEL, context, report)
        text = packaged_text("wikipedia")
        made = distil_draft(context.workspace.model, given.out, text.calibration, text.held_out, settings, report)
    print(json.dumps(asdict(made), indent=2))
