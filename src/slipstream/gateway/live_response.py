"""An answer that is still being made while it is sent, given up as soon as its client has gone away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from slipstream.gateway.errors import ApiError

JSON_HEADERS = {"content-type": "application/json"}
EVENT_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",  # nginx would hold events back
}


class LiveResponse(Response):
    """Sends what `parts` gives, each part at once.

    The status waits for the first part, so that a refusal before it is an ordinary error; `late_headers` are read then.
    `parts` is closed whatever happens, which ends its work on the server.
    """

    def __init__(
        self, parts: AsyncGenerator[bytes], headers: dict[str, str], *, late_headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._parts = parts
        self._late_headers = {} if late_headers is None else late_headers  # one that is empty fills up

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(_has_left(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            sending.cancel()
            sent, _ = await asyncio.gather(sending, leaving, return_exceptions=True)
        if isinstance(sent, Exception):
            raise sent

    async def _send(self, send: Send) -> None:
        begun = False
        async with aclosing(self._parts) as parts:
            try:
                async for part in parts:
                    if not begun:
                        self.headers.update(self._late_headers)
                        await self._begin(send, 200, self.raw_headers)
                        begun = True
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            except ApiError as error:
                assert not begun, "a failure behind the first part is a part"
                headers = {**JSON_HEADERS, **self._late_headers, **error.headers}
                raw = [(name.encode(), value.encode()) for name, value in headers.items()]
                await self._begin(send, error.status, raw)
                await send({"type": "http.response.body", "body": orjson.dumps(error.body()), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})


async def _has_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
