"""Starts the peers' servers, and stops all but one of them while that one is measured."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from slipstream.errors import SlipstreamError

Body = Callable[[str, list[int], int], dict[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another server of the same model."""

    name: str
    precision: str
    command: Callable[[int], Sequence[str | Path]]  # by port
    environment: Mapping[str, str]
    path: str  # of the HTTP endpoint that streams
    body: Body  # of a request: prompt as text and as ids, tokens to generate
    startup_timeout_s: float = 420.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerServer:
    """A peer that answers."""

    peer: Peer
    port: int
    process: psutil.Process
    startup_s: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.peer.path}"

    @property
    def family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def pause(self) -> None:
        """Stop every process of it: an idle server's threads may spin, and its memory is left alone."""
        for process in self.family:
            process.suspend()

    def resume(self) -> None:
        for process in reversed(self.family):
            process.resume()


@contextmanager
def serving_peer(peer: Peer, logs: Path) -> Iterator[PeerServer]:
    """`peer` on a free port until the block ends."""
    port, started = _free_port(), time.monotonic()
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{re.sub('[^a-z.]+', '-', peer.name.lower())}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            list(map(str, peer.command(port))),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | {"XDG_CACHE_HOME": str(logs.with_name("cache"))} | dict(peer.environment),
            start_new_session=True,
        )
    try:
        while not _is_healthy(port):
            if process.poll() is not None or time.monotonic() - started > peer.startup_timeout_s:
                raise SlipstreamError(f"{log}: {peer.name} did not start", mend="read the log")
            time.sleep(0.25)
        family = psutil.Process(process.pid)
        yield PeerServer(peer=peer, port=port, process=family, startup_s=time.monotonic() - started)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask first: vLLM leaves shared memory behind when it is killed."""
    os.killpg(process.pid, signal.SIGTERM)
    os.killpg(process.pid, signal.SIGCONT)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
