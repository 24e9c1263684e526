"""What Triton does not notice by itself: dead processes behind a server that still calls itself ready."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from slipstream.client import TritonClient
from slipstream.errors import SlipstreamError
from tests.conftest import DEFAULT, copy_artifacts, run_slipstream

RECOVERY_LIMIT_S = 60  # generous: the machine is shared


@dataclass(frozen=True)
class Detached:
    grpc: str
    pid: int

    def process(self, model: str) -> psutil.Process:
        """The stub of `model`, or the engine's step loop."""
        for child in psutil.Process(self.pid).children(recursive=True):
            if child.status() == psutil.STATUS_ZOMBIE:
                continue
            command = " ".join(child.cmdline())
            if model == "step_loop" and "slipstream.backend.step_loop" in command:
                return child
            if "triton_python_backend_stub" in command and f"/{model}/1/model.py" in command:
                return child
        raise AssertionError(f"no process of {model}")


@pytest.fixture(scope="module")
def detached(artifacts: Path) -> Iterator[Detached]:
    out = str(copy_artifacts(artifacts, "faults"))
    started = run_slipstream("up", DEFAULT, "--out", out, "--set", "runtime.ports=auto", "--detach", "--json")
    assert started.returncode == 0, started.stderr
    state = json.loads(started.stdout)
    try:
        yield Detached(state["triton_grpc"], state["pid"])
    finally:
        run_slipstream("down", DEFAULT, "--out", out)


def wait_for_service(grpc: str) -> None:
    deadline = time.monotonic() + RECOVERY_LIMIT_S
    while True:
        try:
            with TritonClient(grpc, deadline_s=5) as client:
                if client.generate("Hello", max_tokens=2).output_tokens == 2:
                    return
        except SlipstreamError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.mark.parametrize("model", ["tensorrt_llm", "step_loop", "postprocessing", "preprocessing", "tensorrt_llm_bls"])
def test_a_killed_process_is_replaced_and_its_requests_are_answered(detached: Detached, model: str) -> None:
    path = "tensorrt_llm_bls" if model == "tensorrt_llm_bls" else "ensemble"
    wait_for_service(detached.grpc)
    victim = detached.process(model)
    with ThreadPoolExecutor() as pool, TritonClient(detached.grpc, deadline_s=RECOVERY_LIMIT_S) as client:
        streams = [client.stream(f"Once upon a time {n}", max_tokens=1500, model=path) for n in range(4)]
        for stream in streams:
            next(stream)
        in_flight: list[Future[object]] = [pool.submit(stream.finish) for stream in streams]
        victim.kill()
        outcomes = [future.exception(RECOVERY_LIMIT_S) for future in in_flight]
        failures = [outcome for outcome in outcomes if outcome is not None]  # a text may have ended before the kill
        assert failures
        assert all(isinstance(failure, SlipstreamError) for failure in failures), failures
        assert not any("not complete within" in str(failure) for failure in failures), failures
    wait_for_service(detached.grpc)
    assert detached.process(model).pid != victim.pid
