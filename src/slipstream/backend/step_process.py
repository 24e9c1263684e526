"""The process of the step loop, seen from the model."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import sysconfig
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from slipstream.backend.messages import Broken, FromLoop, Ready, ToLoop
from slipstream.backend.parameters import PipelineSettings
from slipstream.errors import SlipstreamError

_STOP_TIMEOUT_S = 5.0  # a step in progress is finished first; a long prompt's takes about a second


class StepProcess:
    """Starts the step loop and waits until its engine is loaded."""

    def __init__(self, settings: PipelineSettings) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                # -P: a file in the current directory must not stand in for a module.
                [_python(), "-P", "-m", "slipstream.backend.step_loop", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=_environment(),
                stdin=subprocess.DEVNULL,
            )
        self._channel: Connection[Any, Any] = Connection(ours.detach())
        self._channel.send(settings)
        self.ready = self._wait_until_ready()

    @property
    def process_id(self) -> int:
        return self._process.pid

    def memory_bytes(self) -> int:
        """Resident memory of the process; 0 when it has died."""
        # Ten times a second: psutil would read five files for it.
        try:
            pages = Path(f"/proc/{self._process.pid}/statm").read_bytes().split()[1]
        except OSError:
            return 0
        return int(pages) * resource.getpagesize()

    def send(self, message: ToLoop) -> None:
        """Pass `message` on; a loop that has died is noticed by `receive`."""
        try:
            self._channel.send(message)
        except OSError:  # broken, reset, or closed while a new loop is being opened
            return

    def receive(self) -> FromLoop | None:
        """The next message of the loop; none when it has died."""
        try:
            message: FromLoop = self._channel.recv()
        except (EOFError, OSError):
            return None
        return message

    def has_more(self) -> bool:
        """A message waits to be received, or the loop has died."""
        return self._channel.poll()

    def kill(self) -> None:
        """End the process whatever it does; `close` waits for it."""
        self._process.kill()

    def close(self) -> None:
        """End the process and wait for it."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def forget(self) -> None:
        """Release the channel; call it when nobody receives any more."""
        self._channel.close()

    def _wait_until_ready(self) -> Ready:
        message = self.receive()
        if isinstance(message, Ready):
            return message
        reason = message.reason if isinstance(message, Broken) else f"its process ended with {self._process.wait()}"
        self.close()
        raise SlipstreamError(
            f"the engine cannot be loaded: {reason}", mend="read the log above; build the engine again"
        )


def _python() -> str:
    """The interpreter of this environment; inside Triton `sys.executable` is the backend's stub."""
    if Path(sys.executable).name.startswith("python"):
        return sys.executable
    return str(Path(sys.prefix) / "bin" / f"python{sysconfig.get_python_version()}")


def _environment() -> dict[str, str]:
    """This process's environment, with the package importable from where it was imported here."""
    source = str(Path(__file__).resolve().parents[2])
    paths = [source, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
