"""Serves one deployment until told to stop, and stops one that is served elsewhere."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from slipstream.errors import SlipstreamError
from slipstream.gateway_config import GatewayConfig
from slipstream.progress import Reporter, silent
from slipstream.project import Workspace
from slipstream.serve import state as states
from slipstream.serve.container import check_container, start_in_container
from slipstream.serve.gateway import GatewayProcess, restart_gateway, start_gateway
from slipstream.serve.ports import LOOPBACK, Address, resolve_ports
from slipstream.serve.shared_memory import region_prefix, sweep, sweep_orphans
from slipstream.serve.triton import TritonServer, start_triton
from slipstream.serve.watchdog import Watchdog
from slipstream.spec import DeploymentSpec, PortsSpec

_LOOK_PERIOD_S = 0.25
_DOWN_TIMEOUT_S = 40.0
_MOST_FAULTS = 10
_FAULT_WINDOW_S = 120.0


@dataclass(slots=True)
class ServedDeployment:
    """A deployment and the server that serves it now; after a fault it is another one, on the same ports."""

    spec: DeploymentSpec
    repository: Path
    run: Path
    ports: PortsSpec
    server: TritonServer
    address: Address = LOOPBACK
    gateway: GatewayProcess | None = None

    def restart(self, log: Callable[[str], None]) -> None:
        """Replace the server. Its connections break, which is the answer to every request in flight."""
        started = time.monotonic()
        self.server.kill()
        self.server = _start(self.spec, self.repository, self.ports, self.run, self.address)
        self.server.wait_until_ready(self.spec.runtime.startup_timeout_s, silent)
        log(f"serving again after {time.monotonic() - started:.1f} s")

    def restart_gateway(self, log: Callable[[str], None]) -> None:
        """Replace the gateway; Triton serves on. That it answers is enough: Triton may be being replaced too."""
        assert self.gateway is not None, "only what runs is replaced"
        started = time.monotonic()
        self.gateway.kill()
        self.gateway = restart_gateway(self.gateway.config, self.run)
        self.gateway.wait_until_ready(silent, model=None)
        log(f"the gateway answers again after {time.monotonic() - started:.1f} s")


@contextmanager
def served(
    spec: DeploymentSpec,
    repository: Path,
    run: Path,
    report: Reporter,
    *,
    address: Address = LOOPBACK,
    gateway: Callable[[PortsSpec], GatewayConfig] | None = None,
    sets: Sequence[str] = (),
) -> Iterator[ServedDeployment]:
    """A deployment that has given its first token; whatever happens in the block, nothing of it stays.

    Hold `state.serving` around it wherever another process could serve from `run`. A GPU's ranks listen on `address`
    and are started after a pre-flight; the embedded server is on loopback always. With `gateway`, which gives its
    configuration, one is started in front, and the first token comes through it. `sets` are noted in the state.
    """
    sweep_orphans()
    ports = resolve_ports(spec.runtime.ports, has_gateway=gateway is not None)
    config = gateway(ports) if gateway else None
    if spec.engine.target != "openvino":
        check_container(spec, Workspace(directory=repository.parent), ports)
    server = _start(spec, repository, ports, run, address)
    deployment = ServedDeployment(spec, repository, run, ports, server, address)
    state = _state(deployment, config, tuple(sets))
    try:
        states.write_state(run, state)
        deployment.server.wait_until_ready(spec.runtime.startup_timeout_s, report)
        if config is not None:
            deployment.gateway = start_gateway(config, run)
            deployment.gateway.wait_until_ready(report, model=spec.name)
        states.write_state(run, replace(state, is_ready=True))
        yield deployment
    finally:
        with _undisturbed():
            if deployment.gateway is not None:
                deployment.gateway.stop()
            deployment.server.stop()


def supervise(
    deployment: ServedDeployment, log: Callable[[str], None], *, until: Callable[[], bool] = lambda: False
) -> None:
    """Watch server and gateway, and replace what is dead or mute, `until` something or an interruption of this process.

    Raises SlipstreamError when a replacement does not come up, or when replacing does not help.
    """
    faults = _Faults()
    watchdog = _watchdog(deployment)
    while not until():
        complaint = _complaint(deployment.server, watchdog)
        if complaint is not None:
            log(f"{complaint}: replacing the server")
            faults.count(complaint, deployment.server.log)
            watchdog.close()
            deployment.restart(log)
            watchdog = _watchdog(deployment)
        if deployment.gateway is not None and (complaint := deployment.gateway.complaint()) is not None:
            log(f"{complaint}: replacing it")
            faults.count(complaint, deployment.gateway.log)
            deployment.restart_gateway(log)
        time.sleep(_LOOK_PERIOD_S)


class _Faults:
    """When something had to be replaced."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def count(self, complaint: str, log: Path) -> None:
        """SlipstreamError when there have been too many: replacing does not help."""
        now = time.monotonic()
        self._times = [*(fault for fault in self._times if fault > now - _FAULT_WINDOW_S), now]
        if len(self._times) > _MOST_FAULTS:
            raise SlipstreamError(
                f"{len(self._times)} faults within {_FAULT_WINDOW_S:g} s, the last: {complaint}", mend=f"read {log}"
            )


def stop_served(run: Path) -> bool:
    """Stop what serves from `run`: True if something was served. Returns when all its processes are gone."""
    state = states.read_state(run)
    process = states.supervisor(state) if state else None
    if process is None:
        return False
    family = [process]
    with contextlib.suppress(psutil.NoSuchProcess):  # it may end by itself meanwhile
        family += process.children(recursive=True)
        process.terminate()
    alive = _wait_for(family, _DOWN_TIMEOUT_S + (state.drain_s if state else 0))
    for survivor in alive:
        with contextlib.suppress(psutil.Error):
            survivor.kill()
    _wait_for(alive, 5.0)
    sweep(region_prefix(process.pid))
    return True


def _wait_for(processes: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Those that still run when all have ended or the time is up; one that its parent has yet to reap has ended."""
    until, alive = time.monotonic() + timeout_s, list(processes)
    while alive and time.monotonic() < until:
        _, alive = psutil.wait_procs(alive, timeout=0.05)  # reaps those that this process began
        alive = [one for one in alive if _runs(one)]
    return alive


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _start(spec: DeploymentSpec, repository: Path, ports: PortsSpec, run: Path, address: Address) -> TritonServer:
    if spec.engine.target == "openvino":
        return start_triton(repository, ports, run)
    return start_in_container(spec, repository, ports, run, address)


def _watchdog(deployment: ServedDeployment) -> Watchdog:
    server = deployment.server
    return Watchdog(server.process.pid, server.health, deployment.spec.runtime.probe_period_s)


def _complaint(server: TritonServer, watchdog: Watchdog) -> str | None:
    code = server.process.poll()
    return watchdog.complaint() if code is None else f"{server.name} ended with code {code}"


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore a second Ctrl-C: a stop that is interrupted would leave what it was about to remove."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _state(deployment: ServedDeployment, gateway: GatewayConfig | None, sets: tuple[str, ...]) -> states.ServingState:
    pid, created = states.this_process()
    where = deployment.server.endpoints
    return states.ServingState(
        deployment=deployment.spec.name,
        pid=pid,
        created=created,
        triton_http=where.http,
        triton_grpc=where.grpc,
        triton_metrics=where.metrics,
        gateway=gateway.url if gateway else None,
        drain_s=gateway.stop_within_s if gateway else 0,
        sets=sets,
    )
