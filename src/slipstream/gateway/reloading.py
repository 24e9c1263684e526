"""One ASGI application over several configurations in turn: a new one serves new requests, the old one ends its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from slipstream.gateway.errors import ApiError
from slipstream.gateway.exchange import Exchange
from slipstream.gateway.lifecycle import Lifecycle
from slipstream.gateway.services import Services
from slipstream.gateway_config import GatewayConfig

Assemble = Callable[[GatewayConfig, AsyncExitStack, Services | None], Awaitable[Services]]
_HEALTH = "/health/"


@dataclass(slots=True, eq=False)
class _Generation:
    """One configuration at work."""

    app: ASGIApp
    services: Services
    stack: AsyncExitStack  # what its services hold
    running: int = 0
    is_current: bool = True


class ReloadingApp:
    """Call `load` before the first request, and again for every new configuration."""

    def __init__(self, assemble: Assemble, create_app: Callable[[Services], ASGIApp], lifecycle: Lifecycle) -> None:
        self._assemble = assemble
        self._create_app = create_app
        self._lifecycle = lifecycle
        self._current: _Generation | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self.running = 0  # requests that have not ended, whatever their configuration

    async def load(self, config: GatewayConfig) -> None:
        """Serve new requests with `config`; if it raises, everything stays as it was."""
        before = self._current
        async with AsyncExitStack() as stack:
            services = await self._assemble(config, stack, before.services if before else None)
            self._current = _Generation(self._create_app(services), services, stack.pop_all())
        if before is not None:
            before.is_current = False
            self._close_if_idle(before)

    async def close(self) -> None:
        """Let go of what every configuration holds."""
        if self._current is not None:
            await self._current.stack.aclose()
        await asyncio.gather(*self._closing)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        generation = self._current
        assert generation is not None, "a configuration is loaded before the server starts"
        if self._lifecycle.phase == "closing" and scope["type"] == "http" and not scope["path"].startswith(_HEALTH):
            await _refuse(send)
            return
        self.running += 1
        generation.running += 1
        try:
            await generation.app(scope, receive, send)
        finally:
            self.running -= 1
            generation.running -= 1
            self._close_if_idle(generation)

    def _close_if_idle(self, generation: _Generation) -> None:
        if not generation.is_current and not generation.running:
            task = asyncio.get_running_loop().create_task(generation.stack.aclose())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


async def _refuse(send: Send) -> None:
    error = ApiError(503, "this gateway is being stopped: ask again", code="unavailable")
    headers = [
        (b"content-type", b"application/json"),
        (b"retry-after", b"1"),
        (b"connection", b"close"),
        (b"x-request-id", Exchange().request_id.encode()),
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps(error.body())})
