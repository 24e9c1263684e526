"""Notices what Triton does not: a dead or silent Python stub behind a server that still calls itself ready."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from slipstream.serve.health import Health

STUB = "triton_python_backend_stub"


@dataclass(slots=True)
class Watchdog:
    """Looks after the stubs of one server; call `look()` every fraction of a second.

    A stub that has died, or a server that gives no token in `probe_timeout_s`, has its models unloaded and loaded again.
    """

    triton_pid: int
    health: Health
    probe_period_s: float
    log: Callable[[str], None]
    probe_timeout_s: float = 30.0
    _stubs: dict[str, list[psutil.Process]] = field(default_factory=dict)
    _unloaded: list[str] = field(default_factory=list)  # could not be loaded again so far
    _next_probe: float = field(default=0.0)

    def __post_init__(self) -> None:
        self._remember()

    def look(self) -> None:
        dead = [model for model, stubs in self._stubs.items() if not all(map(_is_alive, stubs))]
        if dead or self._unloaded:
            self.log(f"the stub of {', '.join(dead or self._unloaded)} is dead: reloading")
            self._reload([*dead, *self._unloaded])
        if time.monotonic() >= self._next_probe:
            self._probe()

    def _probe(self) -> None:
        if not self.health.first_token(timeout_s=self.probe_timeout_s):
            self.log(f"no token within {self.probe_timeout_s:g} s: reloading every model that runs in a stub")
            self._kill_stubs()
            self._reload(list(self._stubs))
        self._next_probe = time.monotonic() + self.probe_period_s

    def _kill_stubs(self) -> None:
        """A stub that hangs would hold up its own unloading."""
        for stub in (stub for stubs in self._stubs.values() for stub in stubs if _is_alive(stub)):
            stub.kill()

    def _reload(self, models: list[str]) -> None:
        started = time.monotonic()
        self._unloaded = [model for model in models if not self.health.reload(model)]
        self._remember()
        outcome = f"could not load {', '.join(self._unloaded)}, trying again" if self._unloaded else "serving again"
        self.log(f"{outcome} after {time.monotonic() - started:.1f} s")

    def _remember(self) -> None:
        """Which stub processes serve which model now."""
        stubs: dict[str, list[psutil.Process]] = {}
        for child in psutil.Process(self.triton_pid).children(recursive=True):
            model = _model_of(child)
            if model is not None:
                stubs.setdefault(model, []).append(child)
        self._stubs = stubs
        self._next_probe = time.monotonic() + self.probe_period_s


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
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
