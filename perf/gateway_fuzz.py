"""A million random bodies at a gateway's endpoints: .venv/bin/python perf/gateway_fuzz.py [--bodies N]

Writes perf/results/gateway_fuzz.json; exits with 1 and says why if anything was wrong.
"""

import argparse
import json
import sys
from pathlib import Path

from slipstream.perf.gateway_fuzz import run_fuzz
from slipstream.progress import reporting

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--bodies", type=int, default=1_000_000)
parser.add_argument("--connections", type=int, default=8)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gateway_fuzz.json")
arguments = parser.parse_args()
with reporting("fuzz") as report:
    result = run_fuzz(arguments.bodies, connections=arguments.connections, seed=arguments.seed, report=report)
arguments.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
wrong = result["complaints"]
print("\n".join([f"{result['bodies']} bodies, {len(wrong)} complaints: {arguments.out}", *wrong]))
sys.exit(1 if wrong else 0)
