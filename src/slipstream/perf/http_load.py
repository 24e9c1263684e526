"""The lean HTTP client of the gateway's benchmark: the same for all that are compared, and never their bottleneck."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import orjson

_PROMPT = "Write three sentences about the sea, the wind and an old harbour in autumn."
_STREAM_END = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Who is asked."""

    port: int
    model: str
    key: str = ""

    def request(self, *, tokens: int, stream: bool) -> bytes:
        """A chat of one message; nothing in it makes it the same as another client's, nor cacheable."""
        message = {"role": "user", "content": _PROMPT}
        body = orjson.dumps({"model": self.model, "messages": [message], "max_tokens": tokens, "stream": stream})
        key = f"authorization: Bearer {self.key}\r\n" if self.key else ""
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"{key}content-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def latencies_s(target: Target, count: int) -> list[float]:
    """The times of `count` requests for one token, whole, one after the other on one connection."""
    request, times = target.request(tokens=1, stream=False), []
    with socket.create_connection(("127.0.0.1", target.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            began = time.perf_counter()
            connection.sendall(request)
            _read_answer(connection)
            times.append(time.perf_counter() - began)
    return times


@dataclass(slots=True)
class StreamCount:
    """What came of a load of streams."""

    chunks: int = 0
    done: int = 0
    failures: list[bytes] = field(default_factory=list)


def run_streams(target: Target, *, streams: int, tokens: int, rounds: int, pause_s: float = 0.0) -> StreamCount:
    """Hold `streams` streams of `tokens` tokens at once, `rounds` times each, and count their events."""
    requests = [target.request(tokens=tokens, stream=True)] * streams
    return run_requests(target.port, requests, rounds=rounds, pause_s=pause_s)


def run_requests(port: int, requests: Sequence[bytes], *, rounds: int = 1, pause_s: float = 0.0) -> StreamCount:
    """Send each of `requests` for a stream on a connection of its own, `rounds` times, and count their events."""
    count = StreamCount()

    async def run() -> None:
        loop, ended = asyncio.get_running_loop(), []
        for request in requests:
            _, client = await loop.create_connection(partial(_StreamClient, request, rounds, count), "127.0.0.1", port)
            ended.append(client.ended)
            if pause_s:
                await asyncio.sleep(pause_s)
        await asyncio.gather(*ended)

    import uvloop

    uvloop.run(run())
    if count.failures:
        raise RuntimeError(count.failures[0].decode(errors="replace"))
    return count


def _read_answer(connection: socket.socket) -> None:
    answer = connection.recv(1 << 16)
    while True:
        head, is_whole, body = answer.partition(b"\r\n\r\n")
        if is_whole and (_is_chunked_end(head, body) or _has_length(head, body)):
            break
        more = connection.recv(1 << 16)
        if not more:
            raise RuntimeError(f"the connection was closed: {answer[:300]!r}")
        answer += more
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(answer.decode(errors="replace"))


def _is_chunked_end(head: bytes, body: bytes) -> bool:
    return b"chunked" in head.lower() and body.endswith(_STREAM_END)


def _has_length(head: bytes, body: bytes) -> bool:
    length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), None)
    return length is not None and len(body) >= int(length.split(b":")[1])


class _StreamClient(asyncio.Protocol):
    def __init__(self, request: bytes, rounds: int, count: StreamCount) -> None:
        self._request = request
        self._left = rounds
        self._count = count
        self._is_first = True
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is no subclass
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._is_first and not data.startswith(b"HTTP/1.1 200"):
            self._count.failures.append(data)
            self._transport.close()
        self._is_first = False
        self._count.chunks += data.count(b"data: {")
        if data.endswith(_STREAM_END):
            self._count.done += 1
            self._left -= 1
            if self._left:
                self._is_first = True
                self._transport.write(self._request)
            else:
                self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if self._left and not self._count.failures:
            self._count.failures.append(b"a stream was cut")
        if not self.ended.done():
            self.ended.set_result(None)
