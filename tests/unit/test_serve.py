"""Ports, state and installation of a served deployment; the server itself is in tests/integration."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from slipstream.errors import SlipstreamError
from slipstream.serve import shared_memory, supervise
from slipstream.serve.installation import arrange_installation
from slipstream.serve.ports import endpoints, resolve_ports
from slipstream.serve.state import ServingState, read_state, serving, this_process, write_state
from slipstream.serve.supervise import stop_served
from slipstream.serve.watchdog import Watchdog
from slipstream.spec import PortsSpec


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def a_state(**changes: object) -> ServingState:
    pid, created = this_process()
    state = ServingState(
        deployment="x",
        pid=pid,
        created=created,
        triton_http="127.0.0.1:1",
        triton_grpc="127.0.0.1:2",
        triton_metrics="127.0.0.1:3",
    )
    return replace(state, **changes)  # type: ignore[arg-type]


def test_a_busy_port_is_reported_with_its_owner_and_the_mend(busy_port: int) -> None:
    with pytest.raises(SlipstreamError) as caught:
        resolve_ports(resolve_ports("auto").model_copy(update={"grpc": busy_port}))
    assert f"port {busy_port} (runtime.ports.grpc)" in caught.value.message
    assert f"pid {os.getpid()}" in caught.value.message
    assert "runtime.ports=auto" in caught.value.mend


def test_a_port_of_the_system_is_not_called_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unprivileged(socket.socket):
        def bind(self, _address: object) -> None:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("slipstream.serve.ports.socket.socket", Unprivileged)
    with pytest.raises(SlipstreamError, match=r"port 80 .* may not be opened") as caught:
        resolve_ports(PortsSpec(http=80))
    assert "1024" in caught.value.mend


def test_auto_gives_four_free_ports() -> None:
    ports = resolve_ports("auto")
    assert len({ports.http, ports.grpc, ports.metrics, ports.gateway}) == 4
    assert resolve_ports(ports) == ports
    assert endpoints(ports).http == f"127.0.0.1:{ports.http}"


def test_the_state_of_a_live_process_is_read_back(tmp_path: Path) -> None:
    write_state(tmp_path, a_state())
    assert read_state(tmp_path) == a_state()


@pytest.mark.parametrize("change", [{"pid": 2**22 + 1}, {"created": 0.0}])
def test_the_state_of_a_dead_process_is_none(tmp_path: Path, change: dict[str, object]) -> None:
    write_state(tmp_path, a_state(**change))
    assert read_state(tmp_path) is None


def test_a_damaged_state_is_none(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{")
    assert read_state(tmp_path) is None


def test_one_directory_is_served_once(tmp_path: Path) -> None:
    with serving(tmp_path, "x"):
        write_state(tmp_path, a_state())
        message = f"x is already served by process {os.getpid()}"
        with pytest.raises(SlipstreamError, match=message), serving(tmp_path, "x"):
            pass
    assert read_state(tmp_path) is None
    with serving(tmp_path, "x"):
        pass


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
        assert not child.is_running()
        assert not stop_served(tmp_path)
    finally:
        process.kill()


def test_only_regions_without_an_owner_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "_SHM", tmp_path)
    mine = tmp_path / f"{shared_memory.region_prefix(os.getpid())}abc"
    orphan = tmp_path / f"{shared_memory.region_prefix(2**22 + 1)}abc"
    other = tmp_path / "somebody_elses"
    for region in (mine, orphan, other):
        region.write_text("")
    shared_memory.sweep_orphans()
    assert sorted(tmp_path.iterdir()) == sorted([mine, other])
    shared_memory.sweep(shared_memory.region_prefix(os.getpid()))
    assert list(tmp_path.iterdir()) == [other]


def test_the_installation_holds_the_fitting_stub_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    installation = arrange_installation(tmp_path)
    stub = (installation.backend_directory / "python" / "triton_python_backend_stub").resolve()
    assert stub.parent.name == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert installation.tritonserver.exists()
    assert "hf_secret" not in str(installation.environment)
    arrange_installation(tmp_path)


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
