"""One application over several configurations: who serves what, and when what they hold is let go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slipstream.errors import SlipstreamError
from slipstream.gateway.lifecycle import Lifecycle
from slipstream.gateway.reloading import ReloadingApp

# A configuration, its services and its application are told apart by a word: nothing here looks into them.
Word: Any = str


class Parts:
    """Makes services of words, and remembers which of them were let go."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.befores: list[str | None] = []
        self.gates: dict[str, asyncio.Event] = {}

    async def assemble(self, config: Any, stack: AsyncExitStack, before: Any) -> Any:
        stack.callback(self.closed.append, config)
        if config == "bad":
            raise SlipstreamError("bad: cannot be served", mend="give another")
        self.befores.append(before)
        return config

    def create_app(self, services: Any) -> ASGIApp:
        gate = self.gates[services] = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "by", "name": services})
            if scope["path"] == "/slow":
                await gate.wait()

        return app


class Bench:
    """The application under test."""

    def __init__(self) -> None:
        self.parts, self.lifecycle = Parts(), Lifecycle()
        self.app = ReloadingApp(self.parts.assemble, self.parts.create_app, self.lifecycle)

    async def ask(self, path: str = "/") -> list[Message]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        await self.app({"type": "http", "path": path}, receive, send)
        return sent

    async def served_by(self) -> str:
        [message] = await self.ask()
        return str(message["name"])


def run(work: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def bench() -> None:
        await work(Bench())

    asyncio.run(bench())


def test_the_last_configuration_serves_and_knows_the_one_before() -> None:
    async def work(bench: Bench) -> None:
        await bench.app.load(Word("first"))
        assert await bench.served_by() == "first"
        await bench.app.load(Word("second"))
        assert await bench.served_by() == "second"
        assert bench.parts.befores == [None, "first"]

    run(work)


def test_what_a_configuration_holds_is_let_go_when_its_last_request_has_ended() -> None:
    async def work(bench: Bench) -> None:
        await bench.app.load(Word("first"))
        slow = [asyncio.create_task(bench.ask("/slow")) for _ in range(2)]
        await asyncio.sleep(0)
        await bench.app.load(Word("second"))
        await asyncio.sleep(0.01)
        assert (bench.parts.closed, bench.app.running) == ([], 2)
        bench.parts.gates["first"].set()
        await asyncio.gather(*slow)
        await asyncio.sleep(0.01)
        assert (bench.parts.closed, bench.app.running) == (["first"], 0)
        await bench.app.close()
        assert bench.parts.closed == ["first", "second"]

    run(work)


def test_a_configuration_without_requests_is_let_go_at_once() -> None:
    async def work(bench: Bench) -> None:
        await bench.app.load(Word("first"))
        await bench.app.load(Word("second"))
        await asyncio.sleep(0.01)
        assert bench.parts.closed == ["first"]

    run(work)


def test_a_configuration_that_cannot_be_served_leaves_nothing_behind() -> None:
    async def work(bench: Bench) -> None:
        await bench.app.load(Word("first"))
        with pytest.raises(SlipstreamError, match="cannot be served"):
            await bench.app.load(Word("bad"))
        assert bench.parts.closed == ["bad"]
        assert await bench.served_by() == "first"

    run(work)


def test_a_closing_gateway_answers_for_its_health_alone() -> None:
    async def work(bench: Bench) -> None:
        await bench.app.load(Word("first"))
        bench.lifecycle.phase = "leaving"
        assert await bench.served_by() == "first"
        bench.lifecycle.phase = "closing"
        start, _ = await bench.ask("/v1/models")
        assert start["status"] == 503
        assert (b"retry-after", b"1") in start["headers"]
        [message] = await bench.ask("/health/live")
        assert message["name"] == "first"

    run(work)
