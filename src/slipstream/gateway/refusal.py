"""The answer of middleware to a request that goes no further."""

from __future__ import annotations

import asyncio

import orjson
from starlette.types import Receive, Scope, Send

from slipstream.gateway.errors import ApiError

_LINGER_S = 2.0


async def refuse(scope: Scope, receive: Receive, send: Send, error: ApiError, *, drops_rest: bool = True) -> None:
    """Answer an HTTP request or the opening of a WebSocket with `error`, and close the connection behind it.

    With `drops_rest`, what the client still sends is read and dropped for a moment: closed at once, the connection
    would be reset, and the client would not see the answer. It is for a body that has not been read to its end.
    """
    is_http = scope["type"] == "http"
    if not is_http:
        await receive()
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": error.message[:120]})
            return
    kind = "http.response" if is_http else "websocket.http.response"
    body = orjson.dumps(error.body())
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **error.headers,
    }
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": f"{kind}.start", "status": error.status, "headers": raw})
    await send({"type": f"{kind}.body", "body": body, "more_body": is_http})
    if is_http:
        if drops_rest:
            await _drop_the_rest(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drop_the_rest(receive: Receive) -> None:
    try:
        async with asyncio.timeout(_LINGER_S):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass
