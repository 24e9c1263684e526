"""Notices what Triton does not: a dead or silent Python stub behind a server that still calls itself ready."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from slipstream.serve.health import Health

STUB = "triton_python_backend_stub"


@dataclass(slots=True)
class Watchdog:
    """Looks after the stubs of one server; call `complaint()` every fraction of a second."""

    triton_pid: int
    health: Health
    probe_period_s: float
    probe_timeout_s: float = 30.0
    _stubs: dict[psutil.Process, str] = field(default_factory=dict)  # → the model that it serves
    _next_probe: float = 0.0
    # A probe waits behind other requests: meanwhile the stubs are looked at.
    _prober: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="probe"))
    _probe: Future[bool] | None = None

    def __post_init__(self) -> None:
        children = psutil.Process(self.triton_pid).children(recursive=True)
        self._stubs = {child: model for child in children if (model := _model_of(child)) is not None}
        self._next_probe = time.monotonic() + self.probe_period_s

    def complaint(self) -> str | None:
        """What is wrong with the server, in words for the log; None if nothing is."""
        dead = sorted({model for stub, model in self._stubs.items() if not _is_alive(stub)})
        if dead:
            return f"the stub of {', '.join(dead)} is dead"
        if self._probe is None:
            if time.monotonic() >= self._next_probe:
                self._probe = self._prober.submit(self._is_working)
            return None
        if not self._probe.done():
            return None
        is_working = self._probe.result()
        self._probe, self._next_probe = None, time.monotonic() + self.probe_period_s
        return None if is_working else f"no token came within {self.probe_timeout_s:g} s, and the engine made no step"

    def close(self) -> None:
        """Forget the probe that is under way."""
        self._prober.shutdown(wait=False, cancel_futures=True)

    def _is_working(self) -> bool:
        """A token came, or the engine is so busy with others that it did not: its steps go on."""
        before = self.health.iterations()
        if self.health.first_token(timeout_s=self.probe_timeout_s):
            return True
        return before is not None and self.health.iterations() not in (before, None)


def _model_of(process: psutil.Process) -> str | None:
    """The model that a stub serves: its first argument is `…/MODEL/VERSION/model.py`."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return None
    if len(command) < 2 or Path(command[0]).name != STUB:
        return None
    return Path(command[1]).parent.parent.name


def _is_alive(process: psutil.Process) -> bool:
    try:
        # Triton does not wait for its stubs: a killed one stays as a zombie.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
