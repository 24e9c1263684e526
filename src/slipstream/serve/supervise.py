"""Serves one deployment until told to stop, and stops one that is served elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from slipstream.errors import SlipstreamError
from slipstream.progress import Reporter
from slipstream.serve import state as states
from slipstream.serve.ports import resolve_ports
from slipstream.serve.shared_memory import region_prefix, sweep, sweep_orphans
from slipstream.serve.triton import TritonServer, start_triton
from slipstream.serve.watchdog import Watchdog
from slipstream.spec import DeploymentSpec

_LOOK_PERIOD_S = 0.25
_DOWN_TIMEOUT_S = 40.0


@contextmanager
def served(spec: DeploymentSpec, repository: Path, run: Path, report: Reporter) -> Iterator[TritonServer]:
    """A server that has given its first token; whatever happens in the block, nothing of it stays."""
    with states.serving(run, spec.name):
        sweep_orphans()
        server = start_triton(repository, resolve_ports(spec.runtime.ports), run)
        try:
            server.wait_until_ready(spec.runtime.startup_timeout_s, report)
            states.write_state(run, _state(spec.name, server))
            yield server
        finally:
            server.stop()


def supervise(server: TritonServer, spec: DeploymentSpec, log: Callable[[str], None]) -> None:
    """Watch `server` until it ends by itself (an error) or this process is interrupted (KeyboardInterrupt passes)."""
    watchdog = Watchdog(server.process.pid, server.health, spec.runtime.probe_period_s, log)
    while server.process.poll() is None:
        watchdog.look()
        time.sleep(_LOOK_PERIOD_S)
    raise SlipstreamError(f"tritonserver ended with code {server.process.returncode}", mend=f"read {server.log}")


def stop_served(run: Path) -> bool:
    """Stop what serves from `run`: True if something was served. Returns when all its processes are gone."""
    state = states.read_state(run)
    process = states.supervisor(state) if state else None
    if process is None:
        return False
    family = [process, *process.children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=_DOWN_TIMEOUT_S)
    for survivor in alive:
        with contextlib.suppress(psutil.Error):
            survivor.kill()
    psutil.wait_procs(alive, timeout=5)
    sweep(region_prefix(process.pid))
    return True


def _state(deployment: str, server: TritonServer) -> states.ServingState:
    pid, created = states.this_process()
    where = server.endpoints
    return states.ServingState(
        deployment=deployment,
        pid=pid,
        created=created,
        triton_http=where.http,
        triton_grpc=where.grpc,
        triton_metrics=where.metrics,
    )
