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
from concurrent.futures import ThreadPoolExecutor
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
    with serve_copy(artifacts, "second") as server:
        yield server


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


def test_a_killed_server_ends_its_streams_within_two_seconds_and_nothing_else(served: Served, second: Served) -> None:
    running = Running(served)

    def read(answer: Any) -> tuple[list[str], float]:
        with answer:
            return answer.read().decode().strip().split("\n\n"), time.monotonic()

    with gateway(running.services(served.grpc, second.grpc)) as base, ThreadPoolExecutor(16) as pool:
        answers = [ask(base, session=str(number), max_tokens=400, stream=True) for number in range(8)]
        on = [answer.headers["x-slipstream-backend"] for answer in answers]
        reading = [pool.submit(read, answer) for answer in answers]
        os.kill(second.pid, signal.SIGKILL)
        killed_at = time.monotonic()
        asked = [pool.submit(lambda: ask(base, session="new").status) for _ in range(4)]
        assert [one.result(timeout=60) for one in asked] == [200] * 4
        outcomes = [one.result(timeout=120) for one in reading]
    assert set(on) == {"0", "1"}
    for name, (events, ended_at) in zip(on, outcomes, strict=True):
        if name == "0":
            assert events[-1] == "data: [DONE]"
        else:
            assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "unavailable"
            assert ended_at - killed_at < 2
