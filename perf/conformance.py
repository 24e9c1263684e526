"""Score the official clients against the gateway: .venv/bin/python perf/conformance.py

Takes about two minutes; writes docs/conformance.md. LiteLLM cannot live beside the pinned packages: its environment is
made from perf/peers/requirements-litellm-client.txt under build/peers/.
"""

import sys
from pathlib import Path

import pytest

from slipstream.perf.conformance import ConformanceReport
from slipstream.perf.peer_environments import peer_environment
from slipstream.progress import reporting

root = Path(__file__).resolve().parents[1]
with reporting("preparing") as report:
    peer_environment("litellm-client", root / "perf" / "peers", root / "build" / "peers", report)
conformance = ConformanceReport()
tests = sorted(str(path) for path in (root / "tests" / "integration").glob("test_gateway_conformance*.py"))
code = pytest.main([*tests, "-q", "-p", "no:cacheprovider", f"--rootdir={root}"], plugins=[conformance])
(root / "docs" / "conformance.md").write_text(conformance.page())
sys.exit(code)
