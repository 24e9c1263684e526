"""uvicorn's WebSocket protocol, which would wait for ever for a client to read what was sent to it."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from slipstream.spec import ConnectionSpec


class GuardedSocket(WebSocketsSansIOProtocol):
    """One WebSocket; it takes over a connection whose bounds `GuardedHttp` has set."""

    def __init__(self, limits: ConnectionSpec, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._limits = limits
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_write_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._limits.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._end_write_timer()
        super().resume_writing()

    def keepalive_timeout(self) -> None:
        """Nobody answers the ping: what waits to be read will not be, and closing would wait for that."""
        super().keepalive_timeout()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _end_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
