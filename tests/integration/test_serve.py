"""How the real server is started: on loopback only, with a deep stack, and without the APIs that run code."""

from __future__ import annotations

import base64
import http.client
import json
import resource
import time
from pathlib import Path

import psutil
import pytest

from slipstream.client import TritonClient
from slipstream.serve.health import Health
from slipstream.serve.triton import STACK_BYTES
from tests.conftest import Served


def post(served: Served, path: str, body: object) -> int:
    connection = http.client.HTTPConnection(served.http, timeout=30)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "text/plain", "Origin": "https://a.example"})
    return connection.getresponse().status


def test_it_listens_on_loopback_only(served: Served) -> None:
    listening = [
        connection.laddr.ip.removeprefix("::ffff:")  # IPv4 on a socket that takes both
        for connection in psutil.Process(served.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3
    assert set(listening) == {"127.0.0.1"}


def test_its_stack_is_deep_enough_for_large_bodies(served: Served) -> None:
    soft, hard = psutil.Process(served.pid).rlimit(psutil.RLIMIT_STACK)
    assert soft == (STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard))


def test_nobody_can_load_a_model_that_runs_code(served: Served, tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'ran')!r}, 'w')"
    config = {"name": "evil", "backend": "python", "max_batch_size": 0, "input": [], "output": []}
    files = {"config": json.dumps(config), "file:1/model.py": base64.b64encode(code.encode()).decode()}
    assert post(served, "/v2/repository/models/evil/load", {"parameters": files}) == http.client.FORBIDDEN
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("path", ["repository/models/ensemble/unload", "logging", "trace/setting"])
def test_what_could_harm_the_server_or_write_files_is_closed(served: Served, path: str) -> None:
    assert post(served, f"/v2/{path}", {}) == http.client.FORBIDDEN


def test_steps_of_the_engine_are_counted_while_an_ensemble_stream_runs(served: Served) -> None:
    health = Health(served.http, served.metrics)
    with TritonClient(served.grpc) as client, client.stream("Once upon a time", max_tokens=1500) as stream:
        next(stream)
        before = health.iterations()
        deadline = time.monotonic() + 20
        while health.iterations() in (before, None):
            assert time.monotonic() < deadline, "the counter does not move"
            next(stream)
