"""Five minutes of the soak of perf/soak.py: a killed stub, clients that leave, and not one wrong byte."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slipstream.perf.soak import complaints, run_soak
from slipstream.pipeline import run_stage, stages_for
from slipstream.progress import silent
from tests.conftest import a_context, copy_artifacts

MINUTES = float(os.environ.get("SOAK_MINUTES", "5"))


@pytest.mark.timeout(60 * MINUTES + 300)
def test_nothing_is_lost_wrong_or_leaked_while_clients_leave_and_a_stub_dies(artifacts: Path) -> None:
    context = a_context(copy_artifacts(artifacts, "soak"), "runtime.ports=auto", "runtime.execution=accuracy")
    run_stage(stages_for(context.spec)[-1], context, silent)
    result = run_soak(context, minutes=MINUTES, kill_every_s=24 * MINUTES, workers=6, seed=1, report=silent)
    assert len(result["killed"]) == 1
    assert result["requests"] > 20 * MINUTES
    assert not complaints(result)
