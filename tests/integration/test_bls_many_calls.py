"""Thousands of calls between models beside busy Python threads, on a real tritonserver: all are answered."""

from __future__ import annotations

import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from slipstream.project import Workspace
from slipstream.serve.ports import resolve_ports
from slipstream.serve.triton import start_triton
from tests.conftest import Served
from tests.integration.triton_calls import ask

FAKES = Path(__file__).parents[1] / "fakes"
CALLS = 6000  # a process that frees responses without Python's lock lives for a few hundred to some thousand
START_TIMEOUT_S = 60
CONFIG = """
name: "{name}"
backend: "python"
input {{ name: "{input}" data_type: TYPE_INT32 dims: 1 }}
{outputs}
instance_group {{ kind: KIND_CPU count: 1 }}
model_transaction_policy {{ decoupled: true }}
"""
IDS = 'output { name: "output_ids" data_type: TYPE_INT32 dims: [1, 1, 1] }'
LENGTH = 'output { name: "sequence_length" data_type: TYPE_INT32 dims: [1, 1] }'
PLACES = """
output { name: "batch_index" data_type: TYPE_INT32 dims: 1 }
output { name: "sequence_index" data_type: TYPE_INT32 dims: 1 }
"""
WHOLE = 'output { name: "whole" data_type: TYPE_INT32 dims: 1 }'


@pytest.fixture
def served_models(tmp_path: Path) -> Iterator[Served]:
    repository = tmp_path / "models"
    put(
        repository,
        "echo",
        FAKES / "echo_engine.py",
        CONFIG.format(name="echo", input="count", outputs=IDS + LENGTH + PLACES),
    )
    put(repository, "caller", FAKES / "caller_model.py", CONFIG.format(name="caller", input="calls", outputs=WHOLE))
    server = start_triton(repository, resolve_ports("auto"), tmp_path / "run")
    try:
        where = server.endpoints
        wait_until_ready(where.http)
        yield Served(where.http, where.grpc, where.metrics, Workspace(directory=tmp_path), server.process.pid)
    finally:
        server.kill()


def put(repository: Path, name: str, model: Path, config: str) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    shutil.copy(model, repository / name / "1" / "model.py")


def wait_until_ready(http: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            urllib.request.urlopen(f"http://{http}/v2/health/ready")
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.1)
        else:
            return


def test_thousands_of_calls_beside_busy_threads_are_all_answered(served_models: Served) -> None:
    (answer,) = ask(served_models, "caller", calls=np.array([CALLS], np.int32))
    assert answer["whole"].item() == CALLS
