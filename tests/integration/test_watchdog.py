"""Processes that nobody else looks after: a dead stub is noticed by name, and `down` ends the whole family."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from slipstream.serve import supervise
from slipstream.serve.state import write_state
from slipstream.serve.supervise import stop_served
from slipstream.serve.watchdog import Watchdog
from tests.unit.test_serve import a_state


def test_down_ends_the_whole_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_DOWN_TIMEOUT_S", 0.5)
    code = "import subprocess, time; subprocess.Popen(['sleep', '100']); time.sleep(100)"
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        parent = psutil.Process(process.pid)
        while not parent.children():
            time.sleep(0.01)
        [child] = parent.children()
        write_state(tmp_path, a_state(pid=process.pid, created=parent.create_time()))
        assert stop_served(tmp_path)
        assert not parent.is_running()
        # Whoever took it over may not have reaped it yet.
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        assert not stop_served(tmp_path)
    finally:
        process.kill()


class FakeHealth:
    """Answers as told."""

    def __init__(self, *, has_token: bool, is_busy: bool) -> None:
        self.has_token = has_token
        self.is_busy = is_busy
        self.steps = 0.0

    def first_token(self, model: str = "ensemble", timeout_s: float = 10.0) -> bool:
        return self.has_token

    def iterations(self) -> float | None:
        self.steps += self.is_busy
        return self.steps


@pytest.fixture
def stubs(tmp_path: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Two children that look like the stubs of two models."""
    processes = {}
    for model in ("a", "b"):
        script = tmp_path / model / "1" / "model.py"
        script.parent.mkdir(parents=True)
        script.write_text("import time; time.sleep(100)")
        stub = tmp_path / "triton_python_backend_stub"
        processes[model] = subprocess.Popen([str(stub), str(script)], executable=sys.executable)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not all(psutil.Process(p.pid).cmdline()[1:] for p in processes.values()):
        time.sleep(0.01)
    yield processes
    for process in processes.values():
        process.kill()
        process.wait()


def a_watchdog(*, has_token: bool = True, is_busy: bool = False, probe_period_s: float = 100) -> Watchdog:
    health = FakeHealth(has_token=has_token, is_busy=is_busy)
    return Watchdog(os.getpid(), health, probe_period_s)  # type: ignore[arg-type]


def complaint_after_a_probe(watchdog: Watchdog) -> str | None:
    """What the watchdog says when it has asked once."""
    assert watchdog.complaint() is None  # it asks in the background
    assert watchdog._probe is not None
    watchdog._probe.exception(timeout=10)
    return watchdog.complaint()


def test_live_stubs_that_give_tokens_are_no_complaint(stubs: dict[str, subprocess.Popen[bytes]]) -> None:
    assert complaint_after_a_probe(a_watchdog(probe_period_s=0)) is None


def test_the_model_of_a_dead_stub_is_named(stubs: dict[str, subprocess.Popen[bytes]]) -> None:
    watchdog = a_watchdog()
    stubs["b"].kill()  # not waited for: Triton leaves the zombie too
    while (complaint := watchdog.complaint()) is None:
        time.sleep(0.01)
    assert complaint == "the stub of b is dead"


def test_a_server_without_a_token_is_a_complaint(stubs: dict[str, subprocess.Popen[bytes]]) -> None:
    complaint = complaint_after_a_probe(a_watchdog(has_token=False, probe_period_s=0))
    assert complaint == "no token came within 30 s, and the engine made no step"


def test_an_engine_that_works_for_others_is_no_complaint(stubs: dict[str, subprocess.Popen[bytes]]) -> None:
    assert complaint_after_a_probe(a_watchdog(has_token=False, is_busy=True, probe_period_s=0)) is None


def test_a_probe_waits_for_its_period(stubs: dict[str, subprocess.Popen[bytes]]) -> None:
    watchdog = a_watchdog(has_token=False, probe_period_s=100)
    assert watchdog.complaint() is None
    assert watchdog._probe is None
