"""Bodies are read whole before anything looks at them: within a size, a time and a depth."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slipstream.gateway.errors import ApiError
from slipstream.gateway.exchange import exchange_in
from slipstream.gateway.json_depth import is_deeper
from slipstream.gateway.refusal import refuse


class BodyLimit:
    """Answers 413 to a body that is too long, 408 to one that takes too long, 400 to JSON that is too deep.

    503 where all bodies that are being read together are over `limit_bytes_together`.
    """

    def __init__(
        self, app: ASGIApp, *, limit_bytes: int, limit_bytes_together: int, timeout_s: float, max_depth: int
    ) -> None:
        self._app = app
        self._limit_bytes_together = limit_bytes_together
        self._held_bytes = 0
        self._limit_bytes = limit_bytes
        self._timeout_s = timeout_s
        self._max_depth = max_depth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        try:
            self._check_length(int(_header(scope, b"content-length") or 0))
            body = await self._read(receive)
        except ApiError as error:
            await refuse(scope, receive, send, error, drops_rest=error.status != 408)
        except _HasLeftError:
            pass
        else:
            await self._pass_on(body, scope, receive, send)

    async def _pass_on(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        if is_deeper(body, self._max_depth):
            error = ApiError(400, f"the body: JSON deeper than {self._max_depth} levels", code="json_too_deep")
            await refuse(scope, receive, send, error, drops_rest=False)
        else:
            exchange_in(scope).body_bytes = len(body)
            await self._app(scope, _replay(body, receive), send)

    async def _read(self, receive: Receive) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _HasLeftError
                    self._hold(len(message.get("body", b"")))
                    body += message.get("body", b"")
                    self._check_length(len(body))
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise ApiError(408, f"the body took longer than {self._timeout_s:g} s", code="body_timeout") from None
        finally:
            self._held_bytes -= len(body)

    def _hold(self, size: int) -> None:
        if self._held_bytes + size > self._limit_bytes_together:
            raise ApiError(503, "too many long bodies at once: try later", headers={"retry-after": "1"})
        self._held_bytes += size

    def _check_length(self, length: int) -> None:
        if length > self._limit_bytes:
            raise ApiError(413, f"the body is over the limit of {self._limit_bytes} bytes", code="body_too_large")


class _HasLeftError(Exception):
    """The client went away before its body was complete."""


def _has_body(scope: Scope) -> bool:
    return any(name in {b"content-length", b"transfer-encoding"} for name, _ in scope["headers"])


def _header(scope: Scope, wanted: bytes) -> bytes | None:
    return next((value for name, value in scope["headers"] if name == wanted), None)


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed
