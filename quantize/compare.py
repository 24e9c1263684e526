#!/usr/bin/env python3
"""Compare recipes on a deployment's model: `python quantize/compare.py DEPLOYMENT [--recipes a,b,c] [--choices 500]`.

Writes perf/results/quantization.json and docs/quantization-accuracy.md and .svg, which wants matplotlib (extra `dev`).
"""

import argparse
import sys
from importlib.metadata import version

from slipstream.commands import Request, open_context
from slipstream.perf.provenance import provenance
from slipstream.pipeline import MODEL, run_stage
from slipstream.progress import reporting
from slipstream.project import recipes_directory
from slipstream.quantize.compare import PAGE, Comparison, compare_recipes, write_results
from slipstream.quantize.recipes import recipe_names

if __name__ == "__main__":  # each recipe's process imports this file
    parser = argparse.ArgumentParser(description="Compare quantization recipes on one model")
    parser.add_argument("deployment")
    parser.add_argument("--recipes", help="comma-separated; default: all")
    parser.add_argument("--choices", type=int, default=500, help="multiple-choice questions; 0: none")
    given = parser.parse_args()
    context = open_context(Request(given.deployment, [], None, as_json=False))
    directory = recipes_directory(context.root)
    recipes = given.recipes.split(",") if given.recipes else recipe_names(directory)
    model, dtype = context.workspace.model, context.spec.model.dtype
    comparison = Comparison(model_directory=model, recipes_directory=directory, dtype=dtype, choices=given.choices)
    with reporting("compare") as report:
        run_stage(MODEL, context, report)
        rows = compare_recipes(comparison, recipes, report)
    packages = {name: version(name) for name in ("nvidia-modelopt", "transformers", "torch", "gensim")}
    machine = provenance() | {"packages": packages}
    command = " ".join(["python quantize/compare.py", *sys.argv[1:]])
    write_results(context.root, comparison, rows, name=given.deployment, command=command, machine=machine)
    print((context.root / PAGE).read_text())
