"""The Responses API over a WebSocket: one `response.create` after the other, each answered with its events.

OpenAI's protocol: the fields of a request lie beside the type, `stream` and `background` mean nothing, and the last
response of the connection can be continued even if it is not to be stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
from fastapi import WebSocket
from pydantic import ValidationError
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from slipstream.errors import SlipstreamError
from slipstream.gateway.errors import ApiError
from slipstream.gateway.exchange import Exchange, exchange_of
from slipstream.gateway.json_depth import is_deeper
from slipstream.gateway.responses.answers import line
from slipstream.gateway.responses.memory import ResponseMemory, StoredResponse
from slipstream.gateway.responses.requests import ResponsesRequest
from slipstream.gateway.responses.respond import found_for, respond, stored_for
from slipstream.gateway.services import Services

_MOST_WAITING = 16
_TOO_MANY, _TOO_LONG = 1008, 1001  # codes of RFC 6455


async def serve_socket(socket: WebSocket, services: Services, memory: ResponseMemory) -> None:
    """Answer until the client leaves or its time is over."""
    await socket.accept()
    inbox = _Inbox(socket)
    reading = asyncio.ensure_future(inbox.read())
    try:
        async with asyncio.timeout(services.spec.responses.socket_s):
            session = _Session(socket, services, memory, inbox)
            async for text in inbox.messages():
                await session.answer(text)
        if inbox.is_flooded:
            await socket.close(_TOO_MANY, "too many requests are waiting")
    except TimeoutError:
        error = ApiError(400, "the connection has reached its time limit", code="websocket_connection_limit_reached")
        await _send_error(socket, error)
        await socket.close(_TOO_LONG)
    except WebSocketDisconnect:
        pass
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


class _Inbox:
    """What the client sends, read all the time so that its leaving is seen at once."""

    def __init__(self, socket: WebSocket) -> None:
        self.left = asyncio.Event()
        self.is_flooded = False
        self._socket = socket
        self._queue: asyncio.Queue[str | None] = asyncio.Queue(_MOST_WAITING + 1)

    async def read(self) -> None:
        """Fill the inbox until the client leaves or sends more than is taken."""
        try:
            while self._queue.qsize() < _MOST_WAITING:
                message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                text = message.get("text")
                self._queue.put_nowait(text if text is not None else message.get("bytes", b"").decode(errors="replace"))
            self.is_flooded = True
        finally:
            self.left.set()
            self._queue.put_nowait(None)

    async def messages(self) -> AsyncIterator[str]:
        while (text := await self._queue.get()) is not None:
            yield text


class _Session:
    """One connection; it remembers its last response."""

    def __init__(self, socket: WebSocket, services: Services, memory: ResponseMemory, inbox: _Inbox) -> None:
        self._socket = socket
        self._services = services
        self._memory = memory
        self._inbox = inbox
        self._last: tuple[str, StoredResponse] | None = None

    async def answer(self, text: str) -> None:
        """Answer one message; a failure is an event, and the connection stays."""
        try:
            await self._respond(self._parsed(text), body_bytes=len(text))
        except ApiError as error:
            await _send_error(self._socket, error)
        except SlipstreamError as error:
            await _send_error(self._socket, ApiError(400, error.message))

    def _parsed(self, text: str) -> ResponsesRequest:
        raw = text.encode(errors="replace")
        if is_deeper(raw, self._services.spec.connections.max_json_depth):
            raise ApiError(400, "body: is nested too deep", code="json_too_deep")
        try:
            fields = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise ApiError(400, f"body: is no JSON ({error})") from error
        if not isinstance(fields, dict) or fields.pop("type", None) != "response.create":
            raise ApiError(400, "type: events are objects of type response.create", param="type")
        for name in ("stream", "background", "stream_options"):
            fields.pop(name, None)
        if fields.pop("generate", True) is False:
            raise ApiError(400, "generate: false is not served; send the request itself", param="generate")
        try:
            return ResponsesRequest.model_validate({**fields, "stream": True})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ApiError(400, f"{where}: {first['msg']}", param=where, code=first["type"]) from error

    async def _respond(self, request: ResponsesRequest, *, body_bytes: int) -> None:
        connected = exchange_of(self._socket)
        # Each response is a request of its own.
        exchange = Exchange(caller=connected.caller, session=connected.session, body_bytes=body_bytes)
        find, store = found_for(self._memory, exchange), stored_for(self._memory, exchange, request)

        def find_here(response_id: str) -> StoredResponse | None:
            if self._last is not None and self._last[0] == response_id:
                return self._last[1]
            return find(response_id)

        def store_here(response_id: str, stored: StoredResponse) -> None:
            self._last = (response_id, stored)
            store(response_id, stored)

        frames = _Frames(self._socket)
        headers = self._socket.headers  # of the handshake
        scope = {**self._socket.scope, "type": "http", "method": "POST"}
        try:
            response = await respond(
                request, exchange, headers, self._services, find=find_here, store=store_here, frame=line
            )
            await response(scope, self._receive, frames.send)
        except ApiError as error:
            frames.status = error.status
            raise
        finally:
            exchange.status, exchange.is_answered = frames.status, frames.is_complete
            if (audit := self._services.security.audit) is not None:
                audit.write(exchange, {**scope, "method": "WEBSOCKET"})

    async def _receive(self) -> Message:
        await self._inbox.left.wait()
        return {"type": "http.disconnect"}


class _Frames:
    """Sends the body of an answer over HTTP as frames: a line each, a refusal as an error."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self.status: int | None = None
        self.is_complete = False
        self._refusal = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        body = message.get("body", b"")
        if self.status is not None and self.status >= 400:
            self._refusal += body
            if not message.get("more_body", False):
                await _send(self._socket, {"type": "error", "status": self.status, **orjson.loads(self._refusal)})
            return
        for event in body.splitlines():
            await self._socket.send_text(event.decode())
        self.is_complete = not message.get("more_body", False)


async def _send_error(socket: WebSocket, error: ApiError) -> None:
    await _send(socket, {"type": "error", "status": error.status, **error.body()})


async def _send(socket: WebSocket, event: dict[str, Any]) -> None:
    await socket.send_text(orjson.dumps(event).decode())
