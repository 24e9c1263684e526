"""Makes docs/verification.md and perf/results/verification.json: every recipe, cut every way, executed and compared.

`python perf/verify_table.py`, after `slipstream quantize deployments/smollm2-135m-cpu.yaml` has fetched the model.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from slipstream.perf.provenance import provenance
from slipstream.progress import reporting
from slipstream.quantize.hf_model import compute_device
from slipstream.quantize.verify.table import as_json, as_markdown, verification_rows

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("nvidia-modelopt", "transformers", "torch")
MODEL = ROOT / "build" / "smollm2-135m-cpu" / "model"


def main() -> int:
    rows, packages = [], {name: version(name) for name in PACKAGES}
    machine = provenance() | {"packages": packages, "accelerator": "no GPU" if compute_device(0) == "cpu" else "a GPU"}
    with reporting("table") as report:
        for row in verification_rows(MODEL, ROOT / "quantize" / "recipes", report):
            rows.append(row)
            (ROOT / "perf" / "results" / "verification.json").write_text(as_json(rows, machine), encoding="utf-8")
            (ROOT / "docs" / "verification.md").write_text(as_markdown(rows, machine), encoding="utf-8")
    executed = [row.verification for row in rows if row.verification]
    return 0 if len(executed) > len(rows) // 2 and all(one.ok for one in executed) else 1


if __name__ == "__main__":
    sys.exit(main())
