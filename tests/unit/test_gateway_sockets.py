"""The guards before a WebSocket: who may not ask is told so before it opens."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from slipstream.gateway.authentication import Authentication
from slipstream.gateway.caller import Caller, current_caller
from slipstream.gateway.loopback_only import LoopbackOnly
from slipstream.gateway.request_envelope import RequestEnvelope

ALICE = Caller(id="1", name="alice")


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", "headers": []})
    await send({"type": "websocket.send", "text": current_caller.get().name})


def opened(guarded: Any, headers: dict[str, str], *, extensions: dict[str, Any]) -> list[Message]:
    scope: Scope = {
        "type": "websocket",
        "path": "/v1/responses",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "extensions": extensions,
    }
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(guarded(scope, receive, send))
    return sent


def behind_keys() -> RequestEnvelope:
    find = {"right": ALICE}.get
    return RequestEnvelope(Authentication(app, finders=[find], public_paths=()), audit=None, is_https=False)


def test_a_socket_with_a_key_opens_under_its_caller_and_a_request_id() -> None:
    accepted, greeting = opened(behind_keys(), {"authorization": "Bearer right"}, extensions={})
    assert dict(accepted["headers"])[b"x-request-id"].startswith(b"req_")
    assert greeting["text"] == "alice"


def test_a_socket_without_a_key_is_answered_with_401() -> None:
    start, body = opened(behind_keys(), {}, extensions={"websocket.http.response": {}})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
    assert b"API key" in body["body"]


def test_a_server_that_cannot_answer_a_socket_closes_it() -> None:
    (closed,) = opened(behind_keys(), {"authorization": "Bearer wrong"}, extensions={})
    assert (closed["type"], closed["code"]) == ("websocket.close", 1008)


@pytest.mark.parametrize(("origin", "kind"), [("http://localhost:1", "accept"), ("https://evil.example", "close")])
def test_without_keys_a_page_of_elsewhere_opens_no_socket(origin: str, kind: str) -> None:
    guarded = LoopbackOnly(app, allowed_origins=())
    first, *_ = opened(guarded, {"host": "localhost:1", "origin": origin}, extensions={})
    assert first["type"] == f"websocket.{kind}"
