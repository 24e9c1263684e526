"""uvicorn's HTTP protocol within bounds that it does not have of its own.

httptools takes headers of any size and number, uvicorn waits for ever for the end of a head, and for a client to read
what was sent to it, and it forgets the running request of a connection on which a second one was sent ahead.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from slipstream.gateway.errors import ApiError
from slipstream.gateway.exchange import Exchange
from slipstream.spec import ConnectionSpec

_WRITE_BUFFER_BYTES = 65_536
_LINGER_S = 1.0


class _RefusedError(Exception):
    """Ends the parsing; what is answered instead lies in the protocol."""


class GuardedHttp(HttpToolsProtocol):
    """One connection of a client."""

    def __init__(self, limits: ConnectionSpec, **of_uvicorn: Any) -> None:
        super().__init__(**of_uvicorn)
        self._limits = limits
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._rest_timer: asyncio.TimerHandle | None = None
        self._is_in_request = False  # between the head and the end of its body
        self._head_bytes = 0  # address, headers and trailers of this request
        self._silent_bytes = 0  # that came since the parser last had something to say
        self._refusal: ApiError | None = None
        self._is_over = False  # answered past the application: what still comes is dropped

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._limits.send_buffer_bytes)
        if len(self.connections) > self._limits.max_connections:
            self._answer(ApiError(503, "too many connections: try later", headers={"retry-after": "1"}))
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head_timer()
        self._end_write_timer()
        self._end_rest_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        if not self._is_in_request and self._head_timer is None:
            self._await_head()
        self._silent_bytes += len(data)
        super().data_received(data)
        # A header that has not ended yet, a trailer or a chunk's extension: the parser keeps it, or waits it out.
        if self._silent_bytes > self._limits.max_header_bytes and not self._is_over:
            self._answer(self._too_large())

    # What the parser says.

    def on_message_begin(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # sent ahead of the answer before it; no client of these APIs does
            raise _RefusedError
        super().on_message_begin()
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        if len(self.headers) >= self._limits.max_headers:
            self._refusal = ApiError(431, f"over {self._limits.max_headers} headers", code="headers_too_large")
            raise _RefusedError
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._end_head_timer()
        self._is_in_request, self._silent_bytes = True, 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_request, self._silent_bytes = False, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed, or what a callback refused."""
        if not self.transport.is_closing():
            self._answer(self._refusal or ApiError(400, msg, code="invalid_http"))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_rest()

    # What the transport says.

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self._in(self._limits.write_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        self._end_write_timer()
        super().resume_writing()

    def _watch_rest(self) -> None:
        """An answer that is written may lie here unread, less than what pauses the writing; closing waits for it."""
        self._end_rest_timer()
        if (size := self.transport.get_write_buffer_size()) > 0:
            self._rest_timer = self._in(self._limits.write_timeout_s, lambda: self._give_up_rest(size))

    def _give_up_rest(self, size: int) -> None:
        self._rest_timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            return  # another answer is being written, which will be watched in its turn
        if self.transport.get_write_buffer_size() < size:
            self._watch_rest()
        else:
            self.transport.abort()

    def _await_head(self) -> None:
        self._head_timer = self._in(self._limits.header_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self._head_timer = None
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if not is_answering and not self.transport.is_closing():
            self._answer(ApiError(408, f"no request within {self._limits.header_timeout_s:g} s", code="header_timeout"))

    def _in(self, delay_s: float, action: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(delay_s, action)

    def _end_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _end_rest_timer(self) -> None:
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None

    def _count(self, size: int) -> None:
        self._silent_bytes = 0
        self._head_bytes += size
        if self._head_bytes > self._limits.max_header_bytes:
            self._refusal = self._too_large()
            raise _RefusedError

    def _too_large(self) -> ApiError:
        limit = self._limits.max_header_bytes
        return ApiError(431, f"address and headers are over the limit of {limit} bytes", code="headers_too_large")

    def _answer(self, error: ApiError) -> None:
        """Write `error` past the application and close; where an answer has begun, only close."""
        self._is_over = True
        self._end_head_timer()
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()
            return
        body = orjson.dumps(error.body())
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
            "x-request-id": Exchange().request_id,
            **error.headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINE[error.status] + lines.encode() + b"\r\n" + body)
        if self.transport.can_write_eof():  # not over TLS
            self.transport.write_eof()
        # Closed at once, with something unread, the connection would be reset and the answer lost on its way.
        self._in(_LINGER_S, self.transport.abort)
