"""Slipstream against llama.cpp, vLLM and transformers serve: .venv/bin/python perf/peers/compare.py [ROUNDS [TOKENS]]

Makes the peers' environments under build/peers (5 GB, minutes, once), then takes about 15 minutes on two quiet cores.
Writes perf/results/peers.json and the table of docs/peers.md.
"""

import json
import signal
import sys
from dataclasses import asdict

from slipstream.commands import Request, open_context
from slipstream.perf.markdown import put_section
from slipstream.perf.peer_catalogue import make_peers
from slipstream.perf.peer_table import peer_rows, peer_table
from slipstream.perf.peers import OURS, PeerLoad, measure_peers
from slipstream.perf.provenance import provenance
from slipstream.pipeline import run_stage, stages_for
from slipstream.progress import reporting
from slipstream.quantize.bundled import find_gguf

signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are ended then, too
context = open_context(Request("smollm2-135m-cpu", ["runtime.ports=auto"], None, as_json=False))
load = PeerLoad(**dict(zip(("rounds", "output_tokens"), map(int, sys.argv[1:]), strict=False)))
root, engine = context.root, context.spec.engine
with reporting("peers") as report:
    for stage in stages_for(context.spec):
        run_stage(stage, context, report)
    sizes = {"streams": engine.max_batch_size, "context_tokens": engine.max_seq_len}
    peers = make_peers(root, context.workspace.model, find_gguf(), **sizes, report=report)
    measured = measure_peers(context, peers, (root / "quantize/calibration/calibration.txt").read_text(), load, report)
precisions = dict.fromkeys(OURS, "int8 weights, 8-bit KV") | {peer.name: peer.precision for peer in peers}
rows = peer_rows(measured.runs, precisions)
result = {
    "load": asdict(load),
    "machine": provenance(),
    "left_out": measured.left_out,
    "rows": [asdict(row) for row in rows],
}
(root / "perf/results/peers.json").write_text(json.dumps(result, indent=2) + "\n")
put_section(root / "docs/peers.md", "peers", peer_table(rows))
print(peer_table(rows))
sys.exit(f"left out: {measured.left_out}" if measured.left_out else 0)
