"""The process in which guides are tried out, seen from the model: it may be killed at any time."""

from __future__ import annotations

import socket
import subprocess
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from slipstream.backend.guide import Guide
from slipstream.backend.step_process import _environment, _python
from slipstream.errors import SlipstreamError

_MOST_CPU_S = 1.0  # the engine compiles the guide a second time, and its streams wait as long
_MOST_WALL_S = 20.0  # a process that neither works nor answers
_MOST_OPEN_S = 60.0
_LOOK_EVERY_S = 0.05
# The server has stacks of 256 MiB. Each thread that compiles would take one, and the memory of a trial is limited.
_SMALL_STACK = 'ulimit -s 8192; exec "$@"'


class GuideTrialProcess:
    """Runs `guide_trial`; opened at the first guide, and again after each one that it did not survive."""

    def __init__(self, engine_dir: Path) -> None:
        self._engine_dir = engine_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Connection[Any, Any] | None = None

    def refusal(self, guide: Guide) -> str:
        """Why `guide` cannot be followed, empty when it can; `SlipstreamError` when none can be tried."""
        import psutil

        if self._process is None or self._process.poll() is not None:
            self.close()
            if not self._open():
                raise SlipstreamError(
                    "guides cannot be tried out: the process that does it did not start", mend="read the server's log"
                )
        assert self._process is not None
        assert self._channel is not None
        cpu = psutil.Process(self._process.pid)
        try:
            self._channel.send(guide)
            answer = self._answer(cpu)
        except (OSError, EOFError, psutil.Error):
            self.close()
            return "compiling it exhausts the memory or the stack"
        if answer is None:
            self.close()
            return f"compiling and following it takes too long, the limit is {_MOST_CPU_S:g} s of the processor"
        return answer

    def kill(self) -> None:
        """End the process from any thread; whoever waits for its answer learns of it."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End the process and release its channel."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._channel is not None:
            self._channel.close()
        self._process = self._channel = None

    def _open(self) -> bool:
        ours, theirs = socket.socketpair()
        with theirs:
            trial = [_python(), "-P", "-m", "slipstream.backend.guide_trial", str(theirs.fileno())]
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SMALL_STACK, "guides", *trial, str(self._engine_dir)],
                pass_fds=[theirs.fileno()],
                env=_environment(),
                stdin=subprocess.DEVNULL,
            )
        self._channel = Connection(ours.detach())
        try:
            return self._channel.poll(_MOST_OPEN_S) and self._channel.recv() == ""
        except (OSError, EOFError):
            return False

    def _answer(self, cpu: Any) -> str | None:
        """None when it takes too long."""
        assert self._channel is not None
        begin_s, deadline = _used_s(cpu), time.monotonic() + _MOST_WALL_S
        while not self._channel.poll(_LOOK_EVERY_S):
            if _used_s(cpu) - begin_s > _MOST_CPU_S or time.monotonic() > deadline:
                return None
        answer: str = self._channel.recv()
        return answer


def _used_s(process: Any) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
