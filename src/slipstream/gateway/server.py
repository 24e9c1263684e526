"""The gateway's process: one event loop, uvicorn in front, gRPC to Triton behind.

SIGHUP reads the configuration again. SIGTERM and SIGINT end the process when its running requests have ended; a second
one ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path

import uvicorn

from slipstream.errors import SlipstreamError
from slipstream.gateway.app import create_app
from slipstream.gateway.assembly import Assembly
from slipstream.gateway.lifecycle import Lifecycle
from slipstream.gateway.listening import allow_connections, renew, tls_context, uvicorn_config
from slipstream.gateway.reloading import ReloadingApp
from slipstream.gateway_config import GatewayConfig, Outcome, outcome_file, read_config, write_outcome
from slipstream.spec import GatewaySpec

_log = logging.getLogger("slipstream.gateway")
_LOOK_PERIOD_S = 0.05
_BACKLOG = 2048


class GatewayServer:
    """Serves what the file at `path` says, until this process is told to end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lifecycle = Lifecycle()
        self._app = ReloadingApp(Assembly(self._lifecycle, os.environ).services, create_app, self._lifecycle)
        self._config: GatewayConfig  # that serves
        self._loads = 1
        self._reload_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Raises SlipstreamError when the first configuration cannot be served or its port is taken."""
        config = read_config(self._path)
        try:
            await self._app.load(config)
            self._config = config
            allow_connections(config.settings.connections.max_connections)
            with _listen(config) as listener:
                server = _Server(_uvicorn_config(self._app, config))
                self._obey_signals(server)
                write_outcome(self._path, Outcome(pid=os.getpid()))
                _log.info("serving %s", config.url)
                await server.serve(sockets=[listener])
        finally:
            outcome_file(self._path).unlink(missing_ok=True)
            await self._app.close()

    def _obey_signals(self, server: _Server) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, lambda: self._start(self._reload(server)))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: self._end(server))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self, server: _Server) -> None:
        """Serve new requests with what the file now says, or say why not and go on."""
        async with self._reload_lock:
            self._loads += 1
            try:
                config = read_config(self._path)
                _check_listening(self._config, config)
                await self._app.load(config)
                renew(server.config, config.settings, root=config.root)
            except SlipstreamError as error:
                _log.error("the new configuration is refused, the old one stays: %s", error)
                outcome = Outcome(pid=os.getpid(), loads=self._loads, message=error.message, mend=error.mend)
            else:
                self._config = config
                _log.info("the new configuration serves new requests")
                outcome = Outcome(pid=os.getpid(), loads=self._loads)
            write_outcome(self._path, outcome)

    def _end(self, server: _Server) -> None:
        if self._lifecycle.phase != "serving":  # told twice
            server.should_exit = server.force_exit = True
            return
        self._lifecycle.phase = "leaving"
        self._start(self._drain(server, self._config.settings))

    async def _drain(self, server: _Server, settings: GatewaySpec) -> None:
        _log.info("told to end: %d requests are running", self._app.running)
        await asyncio.sleep(settings.drain_delay_s)
        self._lifecycle.phase = "closing"
        until = time.monotonic() + settings.drain_timeout_s
        while self._app.running and time.monotonic() < until:
            await asyncio.sleep(_LOOK_PERIOD_S)
        if self._app.running:
            _log.warning("%d requests are cut off: gateway.drain_timeout_s is over", self._app.running)
        server.should_exit = True


class _Server(uvicorn.Server):
    """Uvicorn without its own handling of signals, which would stop listening at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _uvicorn_config(app: ReloadingApp, config: GatewayConfig) -> uvicorn.Config:
    return uvicorn_config(app, config.settings, host=config.settings.host, port=config.port, root=config.root)


@contextlib.contextmanager
def _listen(config: GatewayConfig) -> Iterator[socket.socket]:
    host, port = config.settings.host, config.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SlipstreamError(
            f"the gateway cannot listen on {host}:{port} ({error.strerror})",
            mend="stop what listens there, or choose another gateway.host or runtime.ports.gateway",
        ) from error
    with listener:
        yield listener


def _check_listening(old: GatewayConfig, new: GatewayConfig) -> None:
    """Refuse what only a new process could do, and a certificate that does not fit its key."""
    if old.url != new.url or old.settings.host != new.settings.host:
        raise SlipstreamError(
            f"the gateway listens at {old.url}, the new configuration says {new.url}",
            mend="stop it and start it again: address and TLS are for the life of the process",
        )
    if new.settings.security.tls is not None:
        tls_context(new.settings.security.tls, new.root)
