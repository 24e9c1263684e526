"""Ports, state and installation of a served deployment; what starts processes is in tests/integration."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from slipstream.errors import SlipstreamError
from slipstream.serve import shared_memory
from slipstream.serve.installation import arrange_installation
from slipstream.serve.ports import endpoints, resolve_ports
from slipstream.serve.state import ServingState, read_state, serving, this_process, write_state
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
