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

    The status waits for the first part, so that a refusal before it is an ordinary error. `parts` is closed whatever
    happens, which ends its work on the server. `late` holds the headers that
    `parts` finds out until its first part.
    """

    def __init__(self, parts: AsyncGenerator[bytes], headers: dict[str, str], late: Mapping[str, str]) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._parts = parts
        self._late = late

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
                        await self._begin(send, 200, [*self.raw_headers, *_raw(self._late)])
                        begun = True
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            except ApiError as error:
                assert not begun, "a failure behind the first part is a part"
                await self._begin(send, error.status, _raw({**JSON_HEADERS, **self._late, **error.headers}))
                await send({"type": "http.response.body", "body": orjson.dumps(error.body()), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, send: Send, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


async def _has_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
