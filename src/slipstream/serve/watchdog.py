"""Notices what Triton does not: a dead or silent Python stub behind a server that still calls itself ready."""

from __future__ import annotations

import time
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

    def __post_init__(self) -> None:
        children = psutil.Process(self.triton_pid).children(recursive=True)
        self._stubs = {child: model for child in children if (model := _model_of(child)) is not None}
        self._next_probe = time.monotonic() + self.probe_period_s

    def complaint(self) -> str | None:
        """What is wrong with the server, in words for the log; None if nothing is."""
        dead = sorted({model for stub, model in self._stubs.items() if not _is_alive(stub)})
        if dead:
            return f"the stub of {', '.join(dead)} is dead"
        if time.monotonic() < self._next_probe:
            return None
        has_token = self.health.first_token(timeout_s=self.probe_timeout_s)
        self._next_probe = time.monotonic() + self.probe_period_s
        return None if has_token else f"no token came within {self.probe_timeout_s:g} s"


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
