"""The LLM API behind its event loop, without a server: unloading, and clients that leave."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slipstream.backend.llmapi_engine import LlmApiEngine
from slipstream.backend.llmapi_request import LlmApiRequest
from slipstream.backend.llmapi_response import LlmApiPiece
from slipstream.backend.tensors import RequestRefusedError

FAKES = Path(__file__).resolve().parents[1] / "fakes" / "llmapi"


class Client:
    """Notes what comes back."""

    def __init__(self) -> None:
        self.pieces: list[LlmApiPiece] = []
        self.errors: list[str] = []
        self.is_gone = False
        self.began = threading.Event()
        self.ended = threading.Event()

    def send(self, request: LlmApiRequest, piece: LlmApiPiece, completion: Any | None) -> None:
        self.pieces.append(piece)
        self.began.set()
        if piece.is_last:
            self.ended.set()

    def refuse(self, message: str) -> None:
        self.fail(message)

    def fail(self, message: str) -> None:
        self.errors.append(message)
        self.ended.set()

    def is_cancelled(self) -> bool:
        return self.is_gone


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[LlmApiEngine]:
    monkeypatch.syspath_prepend(str(FAKES))
    from tensorrt_llm import LLM, SamplingParams
    from tensorrt_llm.executor import RequestError

    opened = LlmApiEngine(
        LLM(model="/models/checkpoint"),
        SamplingParams,
        clients_faults=(ValueError, TypeError, RequestError),
        max_requests=None,
        changed=threading.Event(),
    )
    try:
        yield opened
    finally:
        opened.close()
        for name in [name for name in sys.modules if name.partition(".")[0] == "tensorrt_llm"]:
            del sys.modules[name]


def a_request(prompt: str, *, streaming: bool = True, request_id: str = "", **sampling: Any) -> LlmApiRequest:
    return LlmApiRequest(
        request_id=request_id,
        prompt=prompt,
        streaming=streaming,
        sampling=sampling,
        stops=(),
        echo_prompt=False,
        accumulates=False,
        finish_reason=True,
        stop_reason=False,
        cumulative_logprob=False,
    )


def test_unloading_ends_what_is_in_flight_with_what_it_has(engine: LlmApiEngine) -> None:
    streams, whole = [Client() for _ in range(3)], Client()
    for client in streams:
        engine.submit(a_request("count", max_tokens=100_000), client)
    engine.submit(a_request("count", max_tokens=100_000, streaming=False), whole)
    assert all(client.began.wait(5) for client in streams)
    started = time.monotonic()
    engine.close()
    assert time.monotonic() - started < 4
    for client in (*streams, whole):
        assert client.pieces[-1].is_last
        assert client.pieces[-1].finish_reason == "cancelled"
    assert "".join(piece.text for piece in streams[0].pieces).startswith("0 ")
    with pytest.raises(RequestRefusedError, match="is being unloaded"):
        engine.submit(a_request("count"), Client())
    assert engine.checks() == []


def test_only_the_generation_of_the_client_that_left_is_ended(engine: LlmApiEngine) -> None:
    leaving, staying = Client(), Client()
    for client in (leaving, staying):
        engine.submit(a_request("count", max_tokens=40), client)
    assert leaving.began.wait(5)
    leaving.is_gone = True
    for check in engine.checks():
        check()
    assert leaving.ended.wait(5)
    assert staying.ended.wait(5)
    assert leaving.pieces[-1].finish_reason == "cancelled"
    assert staying.pieces[-1].finish_reason == "length"


def test_a_request_that_is_stopped_before_it_began_still_ends(engine: LlmApiEngine) -> None:
    client = Client()
    engine.submit(a_request("count", max_tokens=100_000, request_id="5"), client)
    engine.cancel_request("5")
    assert client.ended.wait(5)
    assert client.pieces[-1].finish_reason == "cancelled"


def test_an_argument_that_sampling_params_does_not_have_reaches_the_client(engine: LlmApiEngine) -> None:
    client = Client()
    engine.submit(a_request("count", temprature=1.0), client)
    assert client.ended.wait(5)
    assert client.errors == ["SamplingParams got unexpected arguments ['temprature']"]
