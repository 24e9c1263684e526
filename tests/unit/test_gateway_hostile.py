"""Clients that mean harm, over real sockets: what is too much, too slow, too deep or out of order is ended."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import time
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from slipstream.gateway.body_limit import BodyLimit
from slipstream.gateway.json_depth import is_deeper
from slipstream.gateway.listening import allow_connections
from slipstream.spec import ConnectionSpec, GatewaySpec
from tests.fakes.gateway import gateway, services_for
from tests.fakes.triton import FakeTriton, Script
from tests.unit.raw_http import ask, connect, exchange, parse, read_to_end

LIMITS = ConnectionSpec(
    max_connections=8,
    max_header_bytes=8192,
    max_headers=20,
    header_timeout_s=0.3,
    body_timeout_s=0.3,
    write_timeout_s=0.3,
    send_buffer_bytes=4096,
)
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def triton() -> Iterator[FakeTriton]:
    with FakeTriton({"tensorrt_llm": Script(pieces=[[5] * 64] * 20_000, hangs=True)}) as server:
        yield server


@pytest.fixture(scope="module")
def base(triton: FakeTriton) -> Iterator[str]:
    with gateway(services_for(triton.address, GatewaySpec(connections=LIMITS, max_body_bytes=65_536))) as url:
        yield url


@pytest.fixture(scope="module")
def calm(triton: FakeTriton) -> Iterator[str]:
    """One with time for whoever is slow because the machine is."""
    limits = LIMITS.model_copy(update={"header_timeout_s": 10.0, "body_timeout_s": 10.0, "write_timeout_s": 10.0})
    with gateway(services_for(triton.address, GatewaySpec(connections=limits, max_body_bytes=65_536))) as url:
        yield url


BRACKETS = st.text(alphabet='[]{}"\\a', max_size=8)
VALUES = st.recursive(
    BRACKETS | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(BRACKETS, inner, max_size=3),
)


def chat(**changes: object) -> bytes:
    body = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "stream": True, **changes}
    return json.dumps(body).encode()


def request(body: bytes) -> bytes:
    return HEAD + b"content-length: %d\r\n\r\n" % len(body) + body


def test_headers_that_are_too_long_or_too_many_are_431(calm: str) -> None:
    bombs = [
        [HEAD + b"x-bomb: " + b"a" * 9000 + b"\r\n\r\n"],
        [HEAD + b"x-bomb: ", *[b"a" * 1000] * 200],  # never ends
        [HEAD, *[b"x-bomb: %d\r\n" % number for number in range(50)]],
        [b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n"],
        [b"GET /", *[b"a" * 1000] * 200],
        [HEAD, *[b"a" * 1000] * 200],  # a name without an end
    ]
    for bomb in bombs:
        refused = exchange(calm, *bomb)
        assert (refused.status, refused.error["code"]) == (431, "headers_too_large")
        assert refused.headers["x-request-id"].startswith("req_")


def test_trailers_and_chunk_extensions_are_bounded_too(base: str) -> None:
    chunked = HEAD + b"transfer-encoding: chunked\r\n\r\n"
    assert exchange(base, chunked + b"2;x=", *[b"a" * 1000] * 50).status == 431
    assert exchange(base, chunked + b"2\r\n{}\r\n0\r\nx: ", *[b"a" * 1000] * 50).status == 431


def test_a_body_over_the_limit_is_413_whether_its_length_is_said_or_not(base: str) -> None:
    said = exchange(base, HEAD + b"content-length: 104857600\r\n\r\n", b" " * 65_536)
    assert (said.status, said.error["code"]) == (413, "body_too_large")
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    unsaid = exchange(base, HEAD + b"transfer-encoding: chunked\r\n\r\n", *[chunk] * 4, b"0\r\n\r\n")
    assert (unsaid.status, unsaid.error["code"]) == (413, "body_too_large")


def test_100_mb_leave_the_memory_as_it_was(base: str) -> None:
    memory = psutil.Process().memory_info
    before, chunk = memory().rss, b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with connect(base) as connection:
        connection.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(1600):
            connection.sendall(chunk)
        connection.sendall(b"0\r\n\r\n")
        assert parse(read_to_end(connection)).status == 413
    assert memory().rss - before < 16 << 20


def test_bodies_that_are_too_long_together_are_503() -> None:
    limit = BodyLimit(_unreached, limit_bytes=1000, limit_bytes_together=1500, timeout_s=10, max_depth=9)
    scope = {"type": "http", "headers": [(b"content-length", b"1000")]}

    async def ask_twice() -> list[int]:
        statuses: list[int] = []

        async def send(message: Message) -> None:
            statuses.extend([message["status"]] if "status" in message else [])

        begun, goes_on = asyncio.Event(), asyncio.Event()

        async def slow() -> Message:
            if begun.is_set():
                await goes_on.wait()
                return {"type": "http.disconnect"}
            begun.set()
            return {"type": "http.request", "body": b" " * 1000, "more_body": True}

        async def quick() -> Message:
            return {"type": "http.request", "body": b" " * 600, "more_body": False}

        first = asyncio.create_task(limit(scope, slow, send))
        await begun.wait()
        await asyncio.sleep(0)
        await limit(scope, quick, send)
        goes_on.set()
        await first
        with pytest.raises(AssertionError, match="room again"):
            await limit({**scope, "state": {}}, quick, send)
        return statuses

    assert asyncio.run(ask_twice()) == [503]


async def _unreached(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise AssertionError("room again")


def test_a_head_that_trickles_in_is_408(base: str) -> None:
    with connect(base) as connection:
        connection.sendall(HEAD + b"x-slow: ")
        assert parse(read_to_end(connection)).error["code"] == "header_timeout"


def test_a_connection_that_says_nothing_is_closed(base: str) -> None:
    with connect(base) as connection:
        assert parse(read_to_end(connection)).status == 408


def test_line_ends_instead_of_a_next_request_do_not_hold_a_connection(base: str) -> None:
    with connect(base) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert parse(connection.recv(65536)).status == 200
        connection.sendall(b"\r\n")
        assert b"HTTP/1.1 408 " in read_to_end(connection)


def test_a_body_that_trickles_in_is_408(base: str) -> None:
    refused = exchange(base, HEAD + b"content-length: 1000\r\n\r\n{")
    assert (refused.status, refused.error["code"]) == (408, "body_timeout")


def test_a_client_that_does_not_read_is_given_up_and_its_slot_is_free(base: str, triton: FakeTriton) -> None:
    already = len(triton.cancelled)
    with connect(base, receive_buffer=4096) as connection:
        connection.sendall(request(chat(max_tokens=1000)))
        assert len(triton.wait_until_cancelled(already + 1)) == already + 1
        assert b"[DONE]" not in read_to_end(connection)


def test_a_socket_that_does_not_read_is_given_up_too(base: str, triton: FakeTriton) -> None:
    already = len(triton.cancelled)
    event = json.dumps({"type": "response.create", "model": "small", "input": "hi"}).encode()
    with connect(base, receive_buffer=4096) as connection:
        connection.sendall(
            b"GET /v1/responses HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert parse(connection.recv(4096)).status == 101
        # A text frame, under a mask that changes nothing.
        connection.sendall(b"\x81" + bytes([0x80 | len(event)]) + bytes(4) + event)
        assert len(triton.wait_until_cancelled(already + 1)) == already + 1


def test_an_answer_that_stays_unread_does_not_hold_its_connection(base: str) -> None:
    """Also where it is too short to pause the writing, and complete long ago."""
    with connect(base, receive_buffer=2048) as connection:
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        head = connection.recv(1024)
        assert parse(head).status == 200
        time.sleep(0.9)
        rest = read_to_end(connection)
        length = int(parse(head).headers["content-length"])
        assert len(parse(head + rest).body) < length


def test_a_request_sent_ahead_of_an_answer_ends_both(base: str, triton: FakeTriton) -> None:
    """uvicorn would forget the first one: nobody would tell it that its client has gone."""
    already = len(triton.cancelled)
    with connect(base) as connection:
        connection.sendall(request(chat(max_tokens=1000)))
        connection.recv(100)
        connection.sendall(request(chat()))
        assert len(triton.wait_until_cancelled(already + 1)) == already + 1


def test_the_limit_of_open_files_follows_the_one_of_connections(caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        allow_connections(400)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 400 + 100
        assert caplog.text == ""
        if hard != resource.RLIM_INFINITY:
            allow_connections(hard)
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
            assert f"the system allows {hard}" in caplog.text
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_one_connection_too_many_is_503(base: str) -> None:
    open_ones = [connect(base) for _ in range(LIMITS.max_connections)]
    try:
        time.sleep(0.05)
        refused = exchange(base)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    finally:
        for connection in open_ones:
            connection.close()


@pytest.mark.parametrize(
    "smuggled",
    [
        b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"content-length: 4\r\ncontent-length: 5\r\n\r\n1234",
        b"content-length: -1\r\n\r\n",
        b"content-length: 0x4\r\n\r\n1234",
        b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        b"x: 1\r\n folded\r\n\r\n",
        b"x : 1\r\n\r\n",
        b"x: a\x00b\r\n\r\n",
    ],
)
def test_requests_that_two_servers_could_read_in_two_ways_are_400(calm: str, smuggled: bytes) -> None:
    refused = exchange(calm, HEAD + smuggled)
    assert refused.status == 400
    assert refused.error["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"[" * 60_000, b"[" * 65 + b"]" * 65, b'{"a":' * 65 + b"1" + b"}" * 65, b"{" * 9000])
def test_deep_json_is_refused_before_it_is_parsed(calm: str, body: bytes) -> None:
    refused = exchange(calm, request(body))
    assert (refused.status, refused.error["code"]) == (400, "json_too_deep")


@pytest.mark.parametrize("body", [b"9" * 60_000, b'"\\ud800"', b'{"model": "\\ud800"}', b"NaN", b"\xff\xfe{}", b""])
def test_odd_json_is_an_ordinary_refusal(calm: str, body: bytes) -> None:
    refused = ask(f"{calm}/v1/chat/completions", body)
    assert 400 <= refused.status < 500
    assert refused.error["type"] == "invalid_request_error"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_no_random_body_breaks_anything(base: str, body: bytes) -> None:
    assert 400 <= ask(f"{base}/v1/chat/completions", body).status < 500


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=200))
def test_no_random_request_breaks_anything(base: str, junk: bytes) -> None:
    with connect(base) as connection:
        connection.sendall(junk + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        assert parse(read_to_end(connection)).status in {0, 400, 403, 404, 405, 408}


def depth(value: object) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if children is None else 1 + max(map(depth, children), default=0)


@settings(max_examples=50)
@given(VALUES, st.integers(0, 6))
def test_the_depth_is_the_depth_whatever_strings_hold(value: object, limit: int) -> None:
    assert is_deeper(json.dumps(value).encode(), limit) == (depth(value) > limit)


@pytest.mark.parametrize("text", [b'"\\' * 500_000, b'"' * 1_000_001, b"[" * 1_000_000, b'["' + b'\\"' * 500_000])
def test_the_depth_of_the_worst_texts_is_found_in_one_pass(text: bytes) -> None:
    started = time.process_time()
    is_deeper(b"[" * 70 + text, 64)
    assert time.process_time() - started < 10, "not in the square of the length, which would be hours"
