"""What the gateway costs, beside LiteLLM's proxy: .venv/bin/python perf/gateway_overhead.py [ROUNDS | --quick]

Makes LiteLLM's environment under build/peers (once), then takes about four minutes. Writes
perf/results/gateway_overhead.json and the table of docs/gateway-performance.md; --quick tries the gateway alone and
writes nothing. Needs a deployment of smollm2-135m-cpu that was built, for its tokenizer.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from slipstream.perf.gateway_overhead import OverheadLoad, measure_gateway, overhead_table
from slipstream.perf.markdown import put_section
from slipstream.perf.peer_environments import peer_environment
from slipstream.perf.provenance import provenance
from slipstream.progress import reporting

root, is_quick = Path(__file__).parents[1], "--quick" in sys.argv
load = OverheadLoad(rounds=1 if is_quick else int(sys.argv[1]) if len(sys.argv) > 1 else 5)
with reporting("overhead") as report:
    python = None if is_quick else peer_environment("litellm", root / "perf/peers", root / "build/peers", report)
    result = measure_gateway(root / "build/smollm2-135m-cpu/model", python, load, report)
print(overhead_table(result))
if not is_quick:
    written = {"machine": provenance(), **asdict(result)}
    (root / "perf/results/gateway_overhead.json").write_text(json.dumps(written, indent=2) + "\n")
    put_section(root / "docs/gateway-performance.md", "gateway_overhead", overhead_table(result))
