"""Whole bodies go out compressed where the client takes it; streams never do: an event must not wait for the next."""

from __future__ import annotations

import asyncio
import gzip
import re
from typing import Any, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Encoding = Literal["zstd", "gzip"]

_TYPES = re.compile(rb"application/json|text/(?!event-stream)")
_IN_A_THREAD_BYTES = 256 << 10  # what takes longer than a token does
_GZIP_LEVEL, _ZSTD_LEVEL = 5, 3


class Compression:
    """Compresses JSON and text of `min_bytes` or more with zstd or gzip, as Accept-Encoding says."""

    def __init__(self, app: ASGIApp, *, min_bytes: int) -> None:
        self._app = app
        self._min_bytes = min_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        encoding = _accepted(scope) if scope["type"] == "http" else None
        if encoding is None:
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = bytearray()

        async def compressed(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_compressible(message):
                start = message
            elif start is None or message["type"] != "http.response.body":
                await send(message)
            else:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    await self._send(start, bytes(body), encoding, send)

        await self._app(scope, receive, compressed)

    async def _send(self, start: Message, body: bytes, encoding: Encoding, send: Send) -> None:
        headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        headers.append((b"vary", b"accept-encoding"))
        if len(body) >= self._min_bytes:
            headers.append((b"content-encoding", encoding.encode()))
            is_large = len(body) > _IN_A_THREAD_BYTES
            body = await asyncio.to_thread(_compress, body, encoding) if is_large else _compress(body, encoding)
        headers.append((b"content-length", b"%d" % len(body)))
        await send({**start, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


def _accepted(scope: Scope) -> Encoding | None:
    """The best of the encodings that the client takes."""
    if scope["method"] == "HEAD":
        return None
    given = b",".join(value for name, value in scope["headers"] if name == b"accept-encoding").decode("latin-1").lower()
    if not given:
        return None
    taken = {
        name.strip() for name, _, weight in (one.partition(";") for one in given.split(",")) if not _is_zero(weight)
    }
    return "zstd" if "zstd" in taken else "gzip" if "gzip" in taken else None


def _is_zero(weight: str) -> bool:
    return re.fullmatch(r"\s*q=0(\.0*)?\s*", weight) is not None


def _is_compressible(start: Message) -> bool:
    headers: dict[bytes, Any] = {name.lower(): value for name, value in start.get("headers", ())}
    return b"content-encoding" not in headers and _TYPES.match(headers.get(b"content-type", b"")) is not None


def _compress(body: bytes, encoding: Encoding) -> bytes:
    if encoding == "gzip":
        return gzip.compress(body, _GZIP_LEVEL, mtime=0)
    import zstandard

    return zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(body)
