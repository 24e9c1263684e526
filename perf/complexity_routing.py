"""The choice of a model by difficulty against the labels: .venv/bin/python perf/complexity_routing.py

Takes seconds. Writes perf/results/complexity_routing.json and the tables of docs/gateway-complexity.md.
"""

from pathlib import Path

from slipstream.perf.complexity import read_prompts
from slipstream.perf.complexity_report import figures, judging_us, tables, write_results
from slipstream.perf.provenance import provenance

root = Path(__file__).resolve().parents[1]
prompts = read_prompts(root)
result = {"machine": provenance(), "judging_cpu_us": judging_us(prompts)} | figures(prompts)
write_results(root, result)
print(tables(result))
print(f"{result['judging_cpu_us']} µs of CPU a decision")
