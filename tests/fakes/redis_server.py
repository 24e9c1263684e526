"""A real Redis or Valkey server for tests, on a free port, with a password, without files."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

PASSWORD = "quite-a-secret"


@dataclass(slots=True)
class RedisServer:
    """May be stopped and started again, empty."""

    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = shutil.which("valkey-server") or shutil.which("redis-server")
        if command is None:
            pytest.skip("needs redis-server or valkey-server: build_scripts/test_tools.sh installs it")
        settings = {"port": self.port, "bind": "127.0.0.1", "requirepass": PASSWORD, "save": "", "appendonly": "no"}
        arguments = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
        self.process = subprocess.Popen([command, *arguments], stdout=subprocess.DEVNULL, cwd="/")
        until = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert time.monotonic() < until, "the server does not come up"
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(timeout=10)
            self.process = None


@contextlib.contextmanager
def redis_server() -> Iterator[RedisServer]:
    """Run until left."""
    with socket.socket() as finder:
        finder.bind(("127.0.0.1", 0))
        port = finder.getsockname()[1]
    server = RedisServer(port)
    server.start()
    try:
        yield server
    finally:
        server.stop()
