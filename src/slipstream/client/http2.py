"""gRPC calls over one HTTP/2 connection, without gRPC's library: a third of its cost for a stream of small messages.

It does what streams from Triton need: any number of calls at once, flow control both ways, deadlines, cancellation,
a server that goes away. No TLS, no compression, no push.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import hpack

from slipstream.client import http2_frames as frames
from slipstream.client.http2_call import Http2Call
from slipstream.client.http2_frames import Flag, Kind, Setting

_STREAM_WINDOW = 1 << 20
_CONNECTION_CREDIT = 1 << 28
_CONNECT_TIMEOUT_S = 20.0
_LAST_STREAM_ID = 2**31 - 1


class Http2Channel:
    """Calls to one server; connects when the first is made, and again after a loss."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = address
        self._host, self._port = host.strip("[]"), int(port)
        self._heads: dict[str, bytes] = {}  # by path
        self._loop = asyncio.get_running_loop()
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: list[Http2Call] = []  # for the connection
        self._is_up = asyncio.Event()  # also when nothing can come up any more
        self._is_closed = False

    def call(
        self, path: str, message: bytes, *, timeout: float | None = None, metadata: Sequence[tuple[str, str]] = ()
    ) -> Http2Call:
        """Send `message` to the method at `path`; what comes back is read from the call."""
        call = Http2Call(self._head(path, metadata), message, timeout, self._loop)
        if self._is_closed:
            call.end("CANCELLED", "the client was closed")
        elif self._connection is not None and self._connection.is_usable:
            self._connection.start(call)
        else:
            self._waiting.append(call)
            if self._connecting is None:
                self._connecting = self._loop.create_task(self._connect())
        return call

    async def close(self) -> None:
        """Close the connection; calls that are still open fail."""
        self._is_closed = True
        self._is_up.set()
        if self._connecting is not None:
            self._connecting.cancel()
        for call in self._waiting:
            call.end("CANCELLED", "the client was closed")
        if self._connection is not None:
            self._connection.close()

    async def wait_until_lost(self) -> None:
        """Wait until a connection that was up is not any more, or this is closed."""
        await self._is_up.wait()
        if self._connection is not None:
            await self._connection.is_lost.wait()

    def _head(self, path: str, metadata: Sequence[tuple[str, str]]) -> bytes:
        if path not in self._heads:
            self._heads[path] = frames.header_block(path, self._address)
        return self._heads[path] + b"".join(frames.literal(name, value) for name, value in metadata)

    def _lost(self) -> None:
        if not self._is_closed and (self._connection is None or not self._connection.is_usable):
            self._is_up.clear()

    async def _connect(self) -> None:
        failure = ""
        try:
            opening = self._loop.create_connection(lambda: _Connection(self._lost), self._host, self._port)
            _, self._connection = await asyncio.wait_for(opening, _CONNECT_TIMEOUT_S)
            self._is_up.set()
        except OSError as error:  # TimeoutError among them
            failure = f"failed to connect: {error}"
        self._connecting = None
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            if failure or self._connection is None or not self._connection.is_usable:
                call.end("UNAVAILABLE", failure or "the connection was lost at once")
            elif not call.is_over:
                self._connection.start(call)


class _Connection(asyncio.Protocol):
    """Takes frames apart and hands them to their calls."""

    def __init__(self, lost: Callable[[], None]) -> None:
        self.is_usable = False
        self.is_lost = asyncio.Event()
        self._tell_lost = lost
        self._calls: dict[int, Http2Call] = {}
        self._next_id = 1
        self._buffer = b""
        self._decoder = hpack.Decoder()
        self._block = b""  # of headers that go on in the next frame
        self._block_ends_stream = False
        self._received = 0  # bytes whose credit was not given back yet
        self._window = frames.FIRST_WINDOW  # what may be sent
        self._first_window = frames.FIRST_WINDOW
        self._windows: dict[int, int] = {}  # of calls whose request is not sent whole
        self._unsent: deque[tuple[int, bytes]] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is no subclass
        mine = {Setting.ENABLE_PUSH: 0, Setting.INITIAL_WINDOW_SIZE: _STREAM_WINDOW}
        credit = frames.window_update(0, frames.LARGEST_WINDOW - frames.FIRST_WINDOW)
        self._transport.write(frames.PREFACE + frames.settings(mine) + credit)
        self.is_usable = True

    def connection_lost(self, error: Exception | None) -> None:
        self.is_usable = False
        self._fail_all("UNAVAILABLE", str(error or "Socket closed"))
        self.is_lost.set()
        self._tell_lost()

    def start(self, call: Http2Call) -> None:
        """Send the request of `call`; its messages are handed to it as they come."""
        stream_id, self._next_id = self._next_id, self._next_id + 2
        if self._next_id > _LAST_STREAM_ID:
            self.is_usable = False
        self._calls[stream_id] = call
        call.withdraw = lambda: self._withdraw(stream_id)
        call.give_credit = lambda size: self._transport.write(frames.window_update(stream_id, size))
        block = call.head
        if call.timeout_s is not None:
            block += frames.literal("grpc-timeout", f"{max(1, round(1000 * call.timeout_s))}m")
        head = frames.frame(Kind.HEADERS, Flag.END_HEADERS, stream_id, block)
        body = frames.message_prefix(call.message) + call.message
        size = len(body)
        if not self._unsent and size <= min(self._window, self._first_window, frames.MOST_FRAME_BYTES):
            self._window -= size
            self._transport.write(head + frames.frame(Kind.DATA, Flag.END_STREAM, stream_id, body))
            return
        self._transport.write(head)
        self._windows[stream_id] = self._first_window
        self._unsent.append((stream_id, body))
        self._send_more()

    def close(self) -> None:
        """Fail what is open."""
        self.is_usable = False
        self._fail_all("CANCELLED", "the client was closed")
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        start, size = 0, len(buffer)
        while size - start >= frames.HEADER_BYTES:
            body = start + frames.HEADER_BYTES
            end = body + int.from_bytes(buffer[start : start + 3], "big")
            if end > size:
                break
            stream_id = int.from_bytes(buffer[start + 5 : body], "big") & frames.LARGEST_WINDOW
            self._take(buffer[start + 3], buffer[start + 4], stream_id, buffer[body:end])
            start = end
        self._buffer = buffer[start:]

    def _take(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == Kind.DATA:
            self._take_data(flags, stream_id, payload)
        elif kind in (Kind.HEADERS, Kind.CONTINUATION):
            self._take_headers(kind, flags, stream_id, payload)
        elif kind == Kind.WINDOW_UPDATE:
            self._take_window(stream_id, frames.uint32(payload))
        elif kind == Kind.SETTINGS and not flags & Flag.ACK:
            self._take_settings(frames.read_settings(payload))
        elif kind == Kind.PING and not flags & Flag.ACK:
            self._transport.write(frames.frame(Kind.PING, Flag.ACK, 0, payload))
        elif kind == Kind.RST_STREAM:
            self._end(stream_id, frames.RESET_STATUS.get(frames.uint32(payload), "INTERNAL"), "the stream was reset")
        elif kind == Kind.GOAWAY:
            self.is_usable = False
            for unseen in [one for one in self._calls if one > frames.uint32(payload)]:
                self._end(unseen, "UNAVAILABLE", "the server is going away")
            self._close_if_drained()

    def _take_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._received += len(payload)
        if self._received >= _CONNECTION_CREDIT:
            self._transport.write(frames.window_update(0, self._received))
            self._received = 0
        call = self._calls.get(stream_id)
        if call is None:  # cancelled a moment ago
            return
        call.take(frames.without_padding(flags, payload, is_headers=False) if flags & Flag.PADDED else payload)
        if flags & Flag.END_STREAM:
            self._end(stream_id, "INTERNAL", "the stream ended without a status")

    def _take_headers(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == Kind.HEADERS:
            payload = frames.without_padding(flags, payload, is_headers=True)
            self._block_ends_stream = bool(flags & Flag.END_STREAM)
        self._block += payload
        if not flags & Flag.END_HEADERS:
            return
        # Of every block, also of calls that are gone: the table of the decoder follows the server's.
        fields = {str(field[0]): str(field[1]) for field in self._decoder.decode(self._block)}
        self._block = b""
        if fields.get(":status", "200") != "200":
            self._end(stream_id, "UNAVAILABLE", f"HTTP status {fields[':status']}")
        elif self._block_ends_stream and (call := self._calls.pop(stream_id, None)) is not None:
            call.end_with(fields)
            self._forget(stream_id)

    def _take_window(self, stream_id: int, size: int) -> None:
        if stream_id == 0:
            self._window += size
        elif stream_id in self._windows:
            self._windows[stream_id] += size
        self._send_more()

    def _take_settings(self, theirs: dict[int, int]) -> None:
        self._transport.write(frames.frame(Kind.SETTINGS, Flag.ACK, 0))
        change = theirs.get(Setting.INITIAL_WINDOW_SIZE, self._first_window) - self._first_window
        self._first_window += change
        for stream_id in self._windows:
            self._windows[stream_id] += change
        self._send_more()

    def _send_more(self) -> None:
        """Send what the windows let through, in the order in which it was asked for."""
        for _ in range(len(self._unsent)):
            stream_id, body = self._unsent.popleft()
            while body and (size := min(self._window, self._windows[stream_id], frames.MOST_FRAME_BYTES)) > 0:
                part, body = body[:size], body[size:]
                self._window -= len(part)
                self._windows[stream_id] -= len(part)
                flags = 0 if body else Flag.END_STREAM
                self._transport.write(frames.frame(Kind.DATA, flags, stream_id, part))
            if body:
                self._unsent.append((stream_id, body))
            else:
                del self._windows[stream_id]

    def _withdraw(self, stream_id: int) -> None:
        if self._calls.pop(stream_id, None) is not None:
            self._transport.write(frames.reset(stream_id))
            self._forget(stream_id)

    def _end(self, stream_id: int, status: str, details: str) -> None:
        if (call := self._calls.pop(stream_id, None)) is not None:
            call.end(status, details)
            self._forget(stream_id)

    def _forget(self, stream_id: int) -> None:
        if self._windows.pop(stream_id, None) is not None:
            self._unsent = deque(one for one in self._unsent if one[0] != stream_id)
        self._close_if_drained()

    def _close_if_drained(self) -> None:
        if not self.is_usable and not self._calls:
            self._transport.close()

    def _fail_all(self, status: str, details: str) -> None:
        calls, self._calls = self._calls, {}
        self._windows, self._unsent = {}, deque()
        for call in calls.values():
            call.end(status, details)
