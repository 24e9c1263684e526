"""What the gateway tells of the requests that it answers: metrics, one log line, a header."""

from __future__ import annotations

import json
import logging
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from slipstream.gateway.exchange import Exchange
from slipstream.gateway.observability.logs import LOGGER, JsonLines
from slipstream.gateway.observability.middleware import overhead_s
from slipstream.gateway.observability.record import Times
from slipstream.spec import GatewayObservabilitySpec, GatewaySpec
from tests.fakes.gateway import gateway, services_for
from tests.fakes.triton import FakeTriton, Script
from tests.unit.small_tokenizers import byte_level

TEXT = "The quick brown fox"
PIECES = [[token] for token in byte_level().encode(TEXT)]
CHAT = "/v1/chat/completions"
ENGINE = {"model_name": "small", "engine": "0"}


@contextmanager
def serving(script: Script, **observability: Any) -> Iterator[str]:
    spec = GatewaySpec(observability=GatewayObservabilitySpec(**observability))
    with FakeTriton({"tensorrt_llm": script}) as triton, gateway(services_for(triton.address, spec)) as url:
        yield url


@pytest.fixture
def base() -> Iterator[str]:
    with serving(Script(pieces=PIECES)) as url:
        yield url


@pytest.fixture
def log() -> Iterator[StringIO]:
    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    LOGGER.addHandler(handler)
    level = LOGGER.level
    LOGGER.setLevel("INFO")
    yield stream
    LOGGER.setLevel(level)
    LOGGER.removeHandler(handler)


def ask(url: str, **changes: Any) -> Any:
    body = {"model": "small", "messages": [{"role": "user", "content": "secret?"}], "max_tokens": 50, **changes}
    request = urllib.request.Request(url + CHAT, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        answer.read()
        return answer.headers


def sample(url: str, name: str, **labels: str) -> float | None:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    for family in text_string_to_metric_families(page):
        for one in family.samples:
            if one.name == name and one.labels.items() >= labels.items():
                return float(one.value)
    return None


def eventually(wanted: float, read: Callable[[], float | None]) -> None:
    """A request is counted when its last byte has been sent: its client may be a moment ahead."""
    until = time.monotonic() + 5
    while (found := read()) != wanted:
        assert time.monotonic() < until, found
        time.sleep(0.01)


def test_a_request_counts_by_route_status_and_model(base: str) -> None:
    ask(base)
    ask(base, stream=True)
    labels = {"route": CHAT, "status": "200", "model": "small"}
    eventually(2, lambda: sample(base, "slipstream_gateway_requests_total", **labels))
    assert sample(base, "slipstream_gateway_requests_total", **labels | {"status": "500"}) is None


def test_a_client_cannot_make_up_labels(base: str) -> None:
    for path, status in ((CHAT, 404), ("/v1/made/up", 404)):
        request = urllib.request.Request(
            base + path,
            b'{"model":"made-up","messages":[{"role":"user","content":"x"}]}',
            {"content-type": "text/json"},
        )
        request.add_header("content-type", "application/json")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        assert refused.value.code == status
    for route in (CHAT, "other"):
        labels = {"route": route, "status": "404", "model": ""}
        eventually(1, lambda labels=labels: sample(base, "slipstream_gateway_requests_total", **labels))  # type: ignore[misc]
    with urllib.request.urlopen(f"{base}/metrics", timeout=10) as page:
        assert b"made" not in page.read()


def test_a_generation_is_in_the_histograms_and_totals_under_vllms_names(base: str) -> None:
    ask(base, stream=True)
    ask(base, max_tokens=len(PIECES))
    eventually(2, lambda: sample(base, "vllm:time_to_first_token_seconds_count", **ENGINE))
    assert sample(base, "vllm:e2e_request_latency_seconds_count", **ENGINE) == 2
    assert sample(base, "vllm:request_queue_time_seconds_count", **ENGINE) == 2
    assert sample(base, "vllm:request_time_per_output_token_seconds_count", **ENGINE) == 2
    assert sample(base, "vllm:inter_token_latency_seconds_count", **ENGINE) == 2 * (len(PIECES) - 1)
    assert sample(base, "vllm:generation_tokens_total", **ENGINE) == 2 * len(PIECES)
    assert sample(base, "vllm:request_generation_tokens_sum", **ENGINE) == 2 * len(PIECES)
    assert sample(base, "vllm:request_success_total", **ENGINE, finished_reason="stop") == 1
    assert sample(base, "vllm:request_success_total", **ENGINE, finished_reason="length") == 1


def test_a_client_that_leaves_is_an_abort_and_runs_no_more() -> None:
    with serving(Script(pieces=PIECES[:2], hangs=True)) as url:
        host, port = url.removeprefix("http://").split(":")
        body = b'{"model":"small","stream":true,"messages":[{"role":"user","content":"x"}]}'
        lines = (
            f"POST {CHAT} HTTP/1.1",
            "host: localhost",
            "content-type: application/json",
            f"content-length: {len(body)}",
        )
        head = "\r\n".join([*lines, "", ""])
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(head.encode() + body)
            assert client.recv(1000)
            assert sample(url, "vllm:num_requests_running", **ENGINE) == 1
            assert sample(url, "vllm:num_requests_waiting", **ENGINE) == 0
        eventually(1, lambda: sample(url, "vllm:request_success_total", **ENGINE, finished_reason="abort"))
        assert sample(url, "vllm:num_requests_running", **ENGINE) == 0


def test_a_failure_of_the_engine_counts_as_an_error(log: StringIO) -> None:
    with serving(Script(error="the engine fell over")) as url:
        with pytest.raises(urllib.error.HTTPError):
            ask(url)
        eventually(1, lambda: sample(url, "vllm:request_success_total", **ENGINE, finished_reason="error"))
    assert json.loads(log.getvalue().splitlines()[0])["finish"] == "error"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_says_what_the_gateway_took(base: str, stream: bool) -> None:
    assert float(ask(base, stream=stream)["x-gateway-overhead-ms"]) >= 0
    eventually(1, lambda: sample(base, "slipstream_gateway_overhead_seconds_count", route=CHAT))


def test_the_header_and_the_page_can_be_left_out() -> None:
    with serving(Script(pieces=PIECES), overhead_header=False, metrics=False) as url:
        assert ask(url)["x-gateway-overhead-ms"] is None
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{url}/metrics", timeout=10)


def test_waiting_for_a_turn_and_for_the_engine_is_no_overhead() -> None:
    class Generation:
        def __init__(self, *times: float) -> None:
            self.times = Times(None, *times)

    exchange = Exchange(received_at=10.0)
    assert overhead_s(exchange, 10.5) == 0.5
    exchange.record.queued_s = 2.0
    exchange.generations = [Generation(13.0, 15.0, 18.0), Generation(13.5, 14.0, 19.0)]  # type: ignore[list-item]
    assert overhead_s(exchange, 19.25) == 19.25 - 10.0 - 2.0 - (19.0 - 13.0)


def test_a_request_is_one_line_without_any_text(base: str, log: StringIO) -> None:
    ask(base)
    eventually(1, lambda: sample(base, "slipstream_gateway_requests_total", route=CHAT, status="200", model="small"))
    (line,) = log.getvalue().splitlines()
    entry = json.loads(line)
    wanted = {
        "level": "info",
        "event": "request",
        "caller": "anonymous",
        "route": CHAT,
        "status": 200,
        "model": "small",
    }
    assert entry.items() >= {**wanted, "output_tokens": len(PIECES), "finish": "stop"}.items()
    assert entry["id"].startswith("req_")
    assert {"ttft_ms", "e2e_ms", "queue_ms", "prompt_tokens"} <= entry.keys()
    assert "secret" not in line
    assert TEXT.split()[1] not in line


def test_a_request_that_no_engine_was_asked_for_has_no_finish(base: str, log: StringIO) -> None:
    with pytest.raises(urllib.error.HTTPError):
        ask(base, model="small", max_tokens=0)
    eventually(1, lambda: sample(base, "slipstream_gateway_requests_total", route=CHAT, status="400"))
    entry = json.loads(log.getvalue())
    assert entry["status"] == 400
    assert entry.keys().isdisjoint({"finish", "queue_ms", "ttft_ms"})


def test_who_watches_is_neither_counted_nor_logged(base: str, log: StringIO) -> None:
    sample(base, "up")
    assert sample(base, "slipstream_gateway_requests_total", route="/metrics") is None
    assert log.getvalue() == ""


def test_the_backends_of_a_model_are_shown(base: str) -> None:
    with urllib.request.urlopen(f"{base}/metrics", timeout=10) as page:
        lines = [line for line in page.read().decode().splitlines() if line.startswith("slipstream_gateway_backend")]
    assert sum(line.endswith(" 1.0") and 'state="up"' in line for line in lines) == 1
    assert sum('state="' in line for line in lines) == 4
