"""What limits and the queue cost a request: .venv/bin/python perf/gateway_admission.py [URL OF A REDIS]

Writes perf/results/gateway_admission.json and the table of docs/gateway-limits.md.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from slipstream.perf.gateway_admission import admission_table, measure_admission
from slipstream.perf.markdown import put_section
from slipstream.perf.provenance import provenance

root = Path(__file__).resolve().parents[1]
rows = measure_admission(sys.argv[1] if len(sys.argv) > 1 else None)
result = {"machine": provenance(), "rows": [asdict(row) for row in rows]}
(root / "perf" / "results" / "gateway_admission.json").write_text(json.dumps(result, indent=2) + "\n")
put_section(root / "docs" / "gateway-limits.md", "admission", admission_table(rows))
print(admission_table(rows))
