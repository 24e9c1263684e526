"""The whole path as a newcomer types it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slipstream.serve.ports import resolve_ports
from tests.conftest import DEFAULT, copy_artifacts, run_slipstream

QUESTION = "What is the capital of France?"
AUTO = ("--set", "runtime.ports=auto")


@pytest.fixture
def workspace(artifacts: Path, request: pytest.FixtureRequest) -> Path:
    return copy_artifacts(artifacts, f"up-{request.node.name}")


@pytest.fixture
def detached(workspace: Path) -> Iterator[dict[str, object]]:
    """A deployment that serves in the background."""
    started = run_slipstream("up", DEFAULT, "--out", str(workspace), *AUTO, "--detach", "--json")
    assert started.returncode == 0, started.stderr
    try:
        yield json.loads(started.stdout) | {"workspace": workspace}
    finally:
        run_slipstream("down", DEFAULT, "--out", str(workspace))


def test_up_answers_a_question_and_ends_without_a_terminal(workspace: Path) -> None:
    done = run_slipstream("up", DEFAULT, "--out", str(workspace), *AUTO, "--ask", QUESTION)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
    assert "tok/s" in done.stdout + done.stderr
    assert done.stderr.count("reused") == 3  # model, checkpoint, engine; this workspace has moved: rendered again
    again = run_slipstream("up", DEFAULT, "--out", str(workspace), *AUTO, "--ask", QUESTION)
    assert again.stderr.count("reused") == 4
    assert "Paris" in again.stdout


def test_two_deployments_serve_at_once(artifacts: Path) -> None:
    def ask(name: str) -> subprocess.CompletedProcess[str]:
        out = copy_artifacts(artifacts, name)
        return run_slipstream("up", DEFAULT, "--out", str(out), *AUTO, "--ask", QUESTION)

    with ThreadPoolExecutor() as pool:
        for done in pool.map(ask, ["first", "second"]):
            assert done.returncode == 0, done.stderr
            assert "Paris" in done.stdout


def test_a_detached_deployment_is_listed_talked_to_and_stopped(detached: dict[str, object]) -> None:
    out = str(detached["workspace"])
    assert set(detached) == {"pid", "triton_http", "triton_grpc", "triton_metrics", "gateway", "workspace"}
    assert str(detached["gateway"]).startswith("http://127.0.0.1:")
    talked = run_slipstream("chat", DEFAULT, QUESTION, "--out", out)
    assert "Paris" in talked.stdout
    conversation = run_slipstream("chat", DEFAULT, "--out", out, "--max-tokens", "16", text="My name is Ada.\nHi!\n")
    assert conversation.returncode == 0, conversation.stderr
    assert conversation.stdout.count("tok/s") == 2
    twice = run_slipstream("up", DEFAULT, "--out", out, *AUTO)
    assert twice.returncode == 1
    assert f"already served by process {detached['pid']}" in twice.stderr
    stopped = run_slipstream("down", DEFAULT, "--out", out, "--json")
    assert json.loads(stopped.stdout) == {"deployment": DEFAULT, "stopped": True}
    assert run_slipstream("chat", DEFAULT, QUESTION, "--out", out).returncode == 1


def test_artifacts_are_not_replaced_under_a_server(detached: dict[str, object]) -> None:
    out = str(detached["workspace"])
    refused = run_slipstream("render", DEFAULT, "--out", out, "--set", "runtime.execution=accuracy")
    assert refused.returncode == 1
    assert "already served" in refused.stderr
    assert run_slipstream("quantize", DEFAULT, "--out", out).returncode == 0  # up to date: nothing is replaced


def test_a_busy_port_is_one_message_with_its_owner(detached: dict[str, object], artifacts: Path) -> None:
    other = copy_artifacts(artifacts, "busy")
    port = str(detached["triton_grpc"]).split(":")[1]
    free = resolve_ports("auto")
    ports = f"{{http: {free.http}, grpc: {port}, metrics: {free.metrics}}}"
    refused = run_slipstream("up", DEFAULT, "--out", str(other), "--set", f"runtime.ports={ports}")
    assert refused.returncode == 1
    assert f"port {port} (runtime.ports.grpc) on 127.0.0.1 is busy: tritonserver (pid" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_stale_artifact_is_refused_by_serve_with_the_field(workspace: Path) -> None:
    refused = run_slipstream("serve", DEFAULT, "--out", str(workspace), "--set", "quantization.recipe=none")
    assert refused.returncode == 3
    assert "quantization.recipe was 'int8_wo' when it was made, now it is 'none'" in refused.stderr
    assert f"slipstream quantize {DEFAULT}" in refused.stderr


def test_a_damaged_engine_is_refused_by_serve(workspace: Path) -> None:
    assert run_slipstream("render", DEFAULT, "--out", str(workspace)).returncode == 0
    weights = workspace / "engine" / "openvino_model.bin"
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.unlink()  # a hard link of the shared fixture: damage a copy, not the original
    weights.write_bytes(content)
    refused = run_slipstream("serve", DEFAULT, "--out", str(workspace), *AUTO)
    assert refused.returncode == 3
    assert f"slipstream build {DEFAULT}" in refused.stderr
