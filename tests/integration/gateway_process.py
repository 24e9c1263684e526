"""A gateway as a process of its own, in front of a Triton that plays scripts."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slipstream.gateway_config import CONFIG_FILE, GatewayConfig, Outcome, UpstreamConfig, read_outcome, write_config
from slipstream.serve.ports import free_gateway_port
from slipstream.spec import BackendSpec, GatewaySpec
from tests.unit.small_tokenizers import save_byte_level

MODEL = "small"


class GatewayProcess:
    """A running gateway, and what a test does with it."""

    def __init__(self, directory: Path, triton_grpc: str, settings: dict[str, Any], *, port: int | None = None) -> None:
        self.port = port or free_gateway_port("auto")
        self.path = directory / CONFIG_FILE
        save_byte_level(directory / "model")
        self.configure(triton_grpc, settings)
        command = [sys.executable, "-P", "-m", "slipstream.gateway", str(self.path)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def configure(self, triton_grpc: str, settings: dict[str, Any]) -> None:
        """Write what it reads when it starts, or at the next signal."""
        upstream = UpstreamConfig(
            name=MODEL,
            backends=(BackendSpec(grpc=triton_grpc),),
            model_dir=self.path.parent / "model",
            max_input_tokens=1000,
            context_tokens=1024,
        )
        # No probes of its own: what a fake receives is what a test sends.
        settings = {"routing": {"probe_period_s": None}, **settings}
        spec = GatewaySpec.model_validate(settings)
        config = GatewayConfig(root=self.path.parent, port=self.port, upstreams=(upstream,), settings=spec)
        write_config(self.path, config)

    def wait_until_live(self) -> None:
        deadline = time.monotonic() + 60
        while self.status("/health/live") != 200:
            assert self.process.poll() is None, "".join(self.said)
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def reload(self) -> Outcome:
        before = read_outcome(self.path)
        assert before is not None
        os.kill(self.process.pid, signal.SIGHUP)
        deadline = time.monotonic() + 30
        while (outcome := read_outcome(self.path)) is None or outcome.loads == before.loads:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return outcome

    def status(self, path: str, body: dict[str, Any] | None = None) -> int:
        """Of a request; 0 where nothing answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            content = None if body is None else json.dumps(body)
            connection.request("GET" if body is None else "POST", path, content, {"content-type": "application/json"})
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def complete(self, **changes: Any) -> int:
        return self.status("/v1/completions", completion(**changes))

    def wait_for(self, path: str, status: int) -> None:
        deadline = time.monotonic() + 30
        while (found := self.status(path)) != status:
            assert time.monotonic() < deadline, found
            time.sleep(0.02)

    @contextlib.contextmanager
    def stream(self) -> Iterator[http.client.HTTPResponse]:
        """A stream of which the first event has come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = json.dumps(completion(stream=True))
        connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.readline().startswith(b"data: ")
        try:
            yield answer
        finally:
            connection.close()

    def end(self, within_s: float = 60) -> int:
        """Its exit code, once it has ended by itself."""
        code = self.process.wait(within_s)
        self._reader.join(10)
        return code

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(self.process.stderr)


@contextlib.contextmanager
def gateway_process(directory: Path, triton_grpc: str, **settings: Any) -> Iterator[GatewayProcess]:
    """One that answers; whatever the test comes to, it is gone at the end."""
    directory.mkdir(exist_ok=True)
    running = GatewayProcess(directory, triton_grpc, settings)
    try:
        running.wait_until_live()
        yield running
    finally:
        running.process.kill()
        running.end()


def completion(**changes: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": "fox", "max_tokens": 50, **changes}
