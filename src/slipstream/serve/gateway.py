"""The gateway beside a served deployment: a process that is started, watched and stopped; its code is not imported."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.parse
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from slipstream.errors import SlipstreamError
from slipstream.gateway_config import CONFIG_FILE, GatewayConfig, outcome_file, read_config, write_config
from slipstream.progress import Reporter
from slipstream.serve.environment import without_secrets

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_START_TIMEOUT_S = 120.0
_LOOK_PERIOD_S = 5.0
_ANSWER_TIMEOUT_S = 10.0
_MOST_SILENCES = 3


@dataclass(slots=True)
class GatewayProcess:
    """A running gateway."""

    process: subprocess.Popen[bytes]
    config: GatewayConfig
    log: Path
    _watch: _Watch = field(init=False)

    def __post_init__(self) -> None:
        self._watch = _Watch(self.config.url)

    def wait_until_ready(self, report: Reporter, *, model: str | None) -> None:
        """Return when a token of `model` has come out; without one, when it answers. SlipstreamError if neither."""
        path = "/health/live" if model is None else f"/health/ready?model={urllib.parse.quote(model, safe='')}"
        started = time.monotonic()
        while (status := status_of(self.config.url, path, timeout_s=30.0)) != http.client.OK:
            if status in {http.client.UNAUTHORIZED, http.client.FORBIDDEN}:
                raise SlipstreamError(
                    f"the gateway asks for a key at {path.partition('?')[0]}",
                    mend="leave /health/live and /health/ready in gateway.security.public_paths",
                )
            waited_s = time.monotonic() - started
            if self.process.poll() is not None:
                raise self._failure(f"the gateway ended with code {self.process.returncode} while starting")
            if waited_s > _START_TIMEOUT_S:
                raise self._failure(f"no answer of the gateway within {_START_TIMEOUT_S:g} s")
            report(f"starting the gateway ({waited_s:.0f} s)")
            time.sleep(0.1)

    def complaint(self) -> str | None:
        """What is wrong with it, in words for the log; None if nothing is."""
        code = self.process.poll()
        return self._watch.complaint() if code is None else f"the gateway ended with code {code}"

    def stop(self) -> None:
        """Let its running requests end, for as long as they may; then as `kill`."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(self._stop_within_s())
        self.kill()
        self.log.with_name(CONFIG_FILE).unlink(missing_ok=True)

    def kill(self) -> None:
        """End it at once."""
        self._watch.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        outcome_file(self.log.with_name(CONFIG_FILE)).unlink(missing_ok=True)

    def _stop_within_s(self) -> float:
        """As the configuration says that it serves now: a reload may have replaced the first one."""
        try:
            return read_config(self.log.with_name(CONFIG_FILE)).stop_within_s
        except SlipstreamError:
            return self.config.stop_within_s

    def _failure(self, what: str) -> SlipstreamError:
        said = self.log.read_text(errors="replace").strip().splitlines()
        return SlipstreamError(f"{what}: {' '.join(said[-3:])[-600:] or 'it said nothing'}", mend=f"read {self.log}")


def start_gateway(config: GatewayConfig, run: Path) -> GatewayProcess:
    """Start a gateway with a new `config`, written to `run`; its log is `run`/gateway.log."""
    write_config(run / CONFIG_FILE, config)
    return restart_gateway(config, run)


def restart_gateway(config: GatewayConfig, run: Path) -> GatewayProcess:
    """Start it with what is in `run`, which a reload may have replaced since `config` was written."""
    log = run / "gateway.log"
    if log.exists():
        log.replace(run / "gateway.log.1")
    argv = [sys.executable, "-P", "-m", "slipstream.gateway", str(run / CONFIG_FILE)]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=without_secrets(os.environ),
            cwd=run,
            start_new_session=True,  # a terminal's Ctrl-C goes to the supervisor alone
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - one async-signal-safe system call
        )
    return GatewayProcess(process, config, log)


def status_of(url: str, path: str, *, timeout_s: float) -> int:
    """HTTP status of a GET; 0 when there was no answer."""
    connection = _connection(urllib.parse.urlsplit(url), timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _connection(where: urllib.parse.SplitResult, timeout_s: float) -> http.client.HTTPConnection:
    if where.scheme == "http":
        return http.client.HTTPConnection(where.netloc, timeout=timeout_s)
    context = ssl.create_default_context()
    # It is our own child, and its certificate names the host that clients see, not the loopback address.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(where.netloc, timeout=timeout_s, context=context)


class _Watch:
    """Asks now and then, in the background, whether the event loop still turns."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._asker = ThreadPoolExecutor(1, thread_name_prefix="gateway-watch")
        self._asked: Future[int] | None = None
        self._next = time.monotonic() + _LOOK_PERIOD_S
        self._silences = 0

    def complaint(self) -> str | None:
        if self._asked is None:
            if time.monotonic() >= self._next:
                self._asked = self._asker.submit(status_of, self._url, "/health/live", timeout_s=_ANSWER_TIMEOUT_S)
            return None
        if not self._asked.done():
            return None
        # Whatever the status, an answer shows that it lives.
        self._silences = 0 if self._asked.result() else self._silences + 1
        self._asked, self._next = None, time.monotonic() + _LOOK_PERIOD_S
        if self._silences < _MOST_SILENCES:
            return None
        return f"the gateway has not answered {self._silences} times"

    def close(self) -> None:
        self._asker.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """In the child: an end of its own should the supervisor be killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
