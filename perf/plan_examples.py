"""Write the example design documents again: .venv/bin/python perf/plan_examples.py

The two cases are docs/planning.md's; the documents are in docs/plans.
"""

from pathlib import Path

from slipstream.plan.calibration import calibration
from slipstream.plan.document import document_text
from slipstream.plan.examples import EXAMPLES
from slipstream.plan.reading import read_texts
from slipstream.plan.search import make_plan

root = Path(__file__).resolve().parents[1]
for name, texts in EXAMPLES.items():
    reading = read_texts(model=texts.model, workload=texts.workload, hardware=texts.hardware)
    text = document_text(make_plan(reading.input, calibration()), reading.notes)
    (root / "docs" / "plans" / f"{name}.md").write_text(text, encoding="utf-8")
    print(name)
