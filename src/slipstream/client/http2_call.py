"""One gRPC call on an HTTP/2 connection: a request goes out, messages come in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import grpc
from grpc import aio

_CREDIT_BYTES = 256 << 10  # given back at once, so that few frames speak of windows
_MOST_UNREAD_BYTES = 256 << 10  # a reader that is slower holds the server up
_PREFIX_BYTES = 5


class CallError(grpc.RpcError):  # type: ignore[misc] # grpc has no types
    """The status that a call ended with."""

    def __init__(self, status: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{status.name}: {details}")
        self._status = status
        self._details = details

    def code(self) -> grpc.StatusCode:
        return self._status

    def details(self) -> str:
        return self._details


class Http2Call:
    """As `grpc.aio`'s call: `read` until it gives `EOF` or raises; `cancel` at any time."""

    def __init__(self, head: bytes, message: bytes, timeout_s: float | None, loop: asyncio.AbstractEventLoop) -> None:
        self.head = head  # as HPACK
        self.message = message
        self.timeout_s = timeout_s
        self.is_over = False
        self.withdraw: Callable[[], None] = _nothing  # tells the server; set by the connection
        self.give_credit: Callable[[int], None] = _nothing
        self._loop = loop
        self._messages: deque[bytes] = deque()
        self._unread_bytes = 0
        self._uncredited_bytes = 0
        self._partial = bytearray()
        self._failure: CallError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = None if timeout_s is None else loop.call_later(timeout_s, self._is_late)

    async def read(self) -> Any:
        """The next message as bytes, or `EOF`."""
        if not self._messages and not self.is_over:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._messages:
            message = self._messages.popleft()
            self._unread_bytes -= len(message)
            self._credit()
            return message
        if self._failure is not None:
            raise self._failure
        return aio.EOF

    def cancel(self) -> None:
        """End it here and on the server."""
        if not self.is_over:
            self.withdraw()
            self.end("CANCELLED", "the call was cancelled")

    def take(self, data: bytes) -> None:
        """Bytes of messages came."""
        self._uncredited_bytes += len(data)
        size = len(data) - _PREFIX_BYTES
        # As nearly always: one message, whole.
        if not self._partial and size >= 0 and int.from_bytes(data[1:5], "big") == size and not data[0]:
            self._keep(data[_PREFIX_BYTES:])
        else:
            self._partial += data
            self._take_partial()
        self._credit()
        self._wake()

    def end(self, status: str, details: str = "") -> None:
        """The status is known; what was read before it stays readable."""
        if self.is_over:
            return
        self.is_over = True
        if self._deadline is not None:
            self._deadline.cancel()
        if status != "OK":
            self._failure = CallError(grpc.StatusCode[status], details)
        self._wake()

    def end_with(self, fields: dict[str, str]) -> None:
        """The trailers came, or are missing."""
        number = fields.get("grpc-status", "")
        known = {str(status.value[0]): status.name for status in grpc.StatusCode}
        status = known.get(number, "UNKNOWN")
        self.end(status, unquote(fields.get("grpc-message", "" if number else "the stream ended without a status")))

    def _take_partial(self) -> None:
        data, start = self._partial, 0
        while len(data) - start >= _PREFIX_BYTES:
            end = start + _PREFIX_BYTES + int.from_bytes(data[start + 1 : start + 5], "big")
            if data[start]:
                self.withdraw()
                self.end("INTERNAL", "a message is compressed, which was not agreed on")
                return
            if end > len(data):
                break
            self._keep(bytes(data[start + _PREFIX_BYTES : end]))
            start = end
        del data[:start]

    def _keep(self, message: bytes) -> None:
        self._messages.append(message)
        self._unread_bytes += len(message)

    def _credit(self) -> None:
        if self._uncredited_bytes >= _CREDIT_BYTES and self._unread_bytes < _MOST_UNREAD_BYTES and not self.is_over:
            self.give_credit(self._uncredited_bytes)
            self._uncredited_bytes = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done() and (self._messages or self.is_over):
            self._waiter.set_result(None)

    def _is_late(self) -> None:
        if not self.is_over:
            self.withdraw()
            self.end("DEADLINE_EXCEEDED", "Deadline Exceeded")


def _nothing(*_: object) -> None:
    """Before a call has a connection."""
