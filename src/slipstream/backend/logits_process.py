"""The process that computes logits, seen from the model."""

from __future__ import annotations

import socket
import subprocess
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.backend.logits import Pass
from slipstream.backend.parameters import PipelineSettings
from slipstream.backend.step_process import _environment, _python
from slipstream.errors import SlipstreamError

_MOST_OPEN_S = 60.0


class LogitsProcess:
    """Runs `logits_pass`; opened at the first pass, and again when it has died: a pass is tried twice."""

    def __init__(self, settings: PipelineSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Connection[Any, Any] | None = None
        self._is_killed = False

    def rows(self, wanted: Pass) -> NDArray[np.float32]:
        """The logits of one pass; `SlipstreamError` when there are none."""
        answer = self._answer(wanted)
        if answer is None and not self._is_killed:
            answer = self._answer(wanted)
        if answer is None:
            raise SlipstreamError("the process that computes logits died", mend="send a request for fewer tokens")
        if isinstance(answer, str):
            raise SlipstreamError(f"logits cannot be computed: {answer}", mend="read the server's log")
        return answer

    def kill(self) -> None:
        """End the process from any thread, for good; whoever waits for its answer learns of it."""
        self._is_killed = True
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

    def _answer(self, wanted: Pass) -> NDArray[np.float32] | str | None:
        """None when the process has died."""
        if self._process is None:
            self._open()
        assert self._channel is not None
        try:
            self._channel.send(wanted)
            answer: NDArray[np.float32] | str = self._channel.recv()
        except (OSError, EOFError):
            self.close()
            return None
        return answer

    def _open(self) -> None:
        ours, theirs = socket.socketpair()
        arguments = [str(self._settings.engine_dir), self._settings.execution]
        with theirs:
            self._process = subprocess.Popen(
                [_python(), "-P", "-m", "slipstream.backend.logits_pass", str(theirs.fileno()), *arguments],
                pass_fds=[theirs.fileno()],
                env=_environment(),
                stdin=subprocess.DEVNULL,
            )
        self._channel = Connection(ours.detach())
        try:
            is_open = self._channel.poll(_MOST_OPEN_S) and self._channel.recv() == ""
        except (OSError, EOFError):
            is_open = False
        if not is_open:
            self.close()
            raise SlipstreamError("the process that computes logits did not start", mend="read the server's log")
