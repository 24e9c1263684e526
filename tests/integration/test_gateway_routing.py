"""Two real servers behind one model: swapped under load, and one killed in the middle of a stream."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from slipstream.gateway.routing import Backends
from slipstream.gateway.served_model import ServedModel
from slipstream.gateway.services import Models, Services
from slipstream.spec import GatewaySpec, RoutingSpec
from slipstream.text.chat_template import ChatTemplate
from slipstream.text.tokenizer import Tokenizer
from tests.conftest import Served, serve_copy
from tests.fakes.gateway import gateway

MODEL = "smollm2"


@pytest.fixture(scope="module")
def second(artifacts: Path) -> Iterator[Served]:
    """A server of its own, which a test may kill."""
    with serve_copy(artifacts, "routed") as server:
        yield server


@dataclass(frozen=True)
class Outcome:
    events: list[str]
    ended_at: float


@dataclass
class Running:
    """A gateway whose backends a test reaches from its own thread."""

    served: Served
    spec: RoutingSpec = field(default_factory=RoutingSpec)
    backends: list[Backends] = field(default_factory=list)
    loops: list[asyncio.AbstractEventLoop] = field(default_factory=list)

    def services(self, *addresses: str) -> Callable[[], Services]:
        def make() -> Services:
            self.loops.append(asyncio.get_running_loop())
            self.backends.append(Backends(addresses, self.spec))
            model = ServedModel(
                name=MODEL,
                tokenizer=Tokenizer.load(self.served.model_dir),
                template=ChatTemplate.load(self.served.model_dir),
                max_input_tokens=1024,
                context_tokens=2048,
                backends=self.backends[0],
            )
            return Services(spec=GatewaySpec(), models=Models([model]))

        return make

    def replace(self, *addresses: str) -> None:
        work = self.backends[0].replace(addresses)
        asyncio.run_coroutine_threadsafe(work, self.loops[0]).result(timeout=60)


def ask(base: str, *, session: str, **changes: Any) -> Any:
    body = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": 8, "ignore_eos": True, **changes}
    headers = {"content-type": "application/json", "x-session-id": session}
    request = urllib.request.Request(f"{base}/v1/completions", json.dumps(body).encode(), headers)
    return urllib.request.urlopen(request, timeout=60)


def test_a_swap_of_servers_under_load_fails_no_request(served: Served, second: Served) -> None:
    running, is_over = Running(served), threading.Event()

    def keep_asking(number: int) -> list[str]:
        names = []
        while not is_over.is_set():
            with ask(base, session=str(number), stream=number % 2 == 0) as answer:
                assert b"error" not in answer.read()
                names.append(answer.headers["x-slipstream-backend"])
        return names

    with gateway(running.services(served.grpc)) as base, ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(keep_asking, number) for number in range(4)]
        try:
            for address in (second.grpc, served.grpc):
                time.sleep(1)
                running.replace(address)
            time.sleep(1)
        finally:
            is_over.set()
        names = {name for one in asking for name in one.result(timeout=60)}
    assert names == {"0", "1", "2"}


def test_a_stopped_server_loses_its_streams_and_comes_back(served: Served, second: Served) -> None:
    running = Running(served, RoutingSpec(lost_after_s=1, affinity_slack_tokens=0))
    with gateway(running.services(served.grpc, second.grpc)) as base, ThreadPoolExecutor(8) as pool:
        on, reading = streams_on_both(base, pool)
        os.kill(second.pid, signal.SIGSTOP)
        try:
            stopped_at = time.monotonic()
            assert ask(base, session="new").status == 200
            check_outcomes(on, reading, stopped_at)
        finally:
            os.kill(second.pid, signal.SIGCONT)
        deadline = time.monotonic() + 30
        while [one.state for one in running.backends[0].status()] != ["up", "up"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_killed_server_ends_its_streams_within_two_seconds_and_nothing_else(served: Served, second: Served) -> None:
    running = Running(served, RoutingSpec(affinity_slack_tokens=0))
    with gateway(running.services(served.grpc, second.grpc)) as base, ThreadPoolExecutor(16) as pool:
        on, reading = streams_on_both(base, pool)
        os.kill(second.pid, signal.SIGKILL)
        killed_at = time.monotonic()
        asked = [pool.submit(lambda: ask(base, session="new").status) for _ in range(4)]
        assert [one.result(timeout=60) for one in asked] == [200] * 4
        check_outcomes(on, reading, killed_at)


def streams_on_both(base: str, pool: ThreadPoolExecutor) -> tuple[list[str], list[Future[Outcome]]]:
    """Streams that have begun, the backends that they are on, and what becomes of them; no slack leaves none idle."""
    answers = [ask(base, session=str(number), max_tokens=300, stream=True) for number in range(6)]
    on = [answer.headers["x-slipstream-backend"] for answer in answers]
    assert set(on) == {"0", "1"}
    return on, [pool.submit(read, answer) for answer in answers]


def read(answer: Any) -> Outcome:
    with answer:
        return Outcome(answer.read().decode().strip().split("\n\n"), time.monotonic())


def check_outcomes(on: list[str], reading: list[Future[Outcome]], gone_at: float) -> None:
    """Those on backend 1 have ended with an error within two seconds, the others well."""
    for name, one in zip(on, reading, strict=True):
        outcome = one.result(timeout=120)
        if name == "0":
            assert outcome.events[-1] == "data: [DONE]"
        else:
            assert json.loads(outcome.events[-1].removeprefix("data: "))["error"]["code"] == "unavailable"
            assert outcome.ended_at - gone_at < 2
