"""Random bodies at every endpoint of a gateway, over real connections: no 5xx, an error object each, flat memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil

from slipstream.perf.gateway_fuzz_target import MODEL
from slipstream.perf.provenance import provenance
from slipstream.progress import Reporter

_HOST = "127.0.0.1"
_WARM_SHARE = 0.1  # of the run, before memory is held against what it was
_MAX_GROWTH_MIB = 32
_KEPT_COMPLAINTS = 5
_VALID: list[dict[str, Any]] = [
    {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "stream": True},
    {
        "model": MODEL,
        "messages": [{"role": "system", "content": "é"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "n": 2,
        "stop": ["a"],
    },
    {"model": MODEL, "prompt": ["a", "b"], "logprobs": 1, "seed": 7, "stream_options": {"include_usage": True}},
    {"model": MODEL, "prompt": "hello", "response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
    {"model": MODEL, "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "tools": []},
    {"model": MODEL, "prompt": "hello"},
    {"model": MODEL, "tokens": [1, 2, 3]},
    {"model": MODEL, "input": "hello", "max_output_tokens": 3},
]
# What an endpoint cannot do without, by the end of its path.
_NEEDED = {
    "/chat/completions": "messages",
    "/messages": "messages",
    "/detokenize": "tokens",
    "/tokenize": "prompt",
    "/responses": "input",
    "/embeddings": "input",
    "/completions": "prompt",
}
_ODD_VALUES: list[Any] = [
    None, True, -1, 0, 2**31, 2**63, 2**70, 1e308, -0.0, "", "\ud800", "\x00", "x" * 3000, [], {}, [[]], {"a": {}},
    [None], [2**40], MODEL, "é" * 50, {"type": "text"}, ["a"] * 200,
]  # fmt: skip


@dataclass(slots=True)
class _Tally:
    statuses: Counter[int] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)
    sent: int = 0

    def complain(self, what: str, path: str, body: bytes) -> None:
        if len(self.complaints) < _KEPT_COMPLAINTS:
            self.complaints.append(f"{what} on {path}: {body[:400]!r}")


def run_fuzz(bodies: int, *, connections: int, seed: int, report: Reporter) -> dict[str, Any]:
    """Send so many bodies; the result says what came back, and what should not have."""
    tally = _Tally()
    with _target() as (process, port):
        paths = _paths(port)
        memory = [process.memory_info().rss]
        started = time.monotonic()

        async def send_all() -> None:
            watching = asyncio.create_task(_watch(process, memory, tally, bodies, report))
            shares = [bodies // connections + (number < bodies % connections) for number in range(connections)]
            await asyncio.gather(
                *(
                    _one_connection(port, paths, share, random.Random(f"{seed}:{number}"), tally)  # noqa: S311
                    for number, share in enumerate(shares)
                )
            )
            watching.cancel()

        asyncio.run(send_all())
        seconds = time.monotonic() - started
        memory.append(process.memory_info().rss)
    warm = memory[int(len(memory) * _WARM_SHARE)]
    growth_mib = (max(memory) - warm) / 2**20
    if growth_mib > _MAX_GROWTH_MIB:
        tally.complaints.append(f"memory grew by {growth_mib:.0f} MiB, the limit is {_MAX_GROWTH_MIB} MiB")
    return {
        **provenance(),
        "bodies": tally.sent,
        "seed": seed,
        "connections": connections,
        "paths": paths,
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "seconds": round(seconds, 1),
        "memory_mib": {"warm": round(warm / 2**20, 1), "most": round(max(memory) / 2**20, 1)},
        "complaints": tally.complaints,
    }


@contextlib.contextmanager
def _target() -> Iterator[tuple[psutil.Process, int]]:
    with socket.socket() as free:
        free.bind((_HOST, 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "slipstream.perf.gateway_fuzz_target", str(port)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            _await_life(port)
            yield psutil.Process(process.pid), port
        finally:
            process.kill()


def _await_life(port: int) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{_HOST}:{port}/health/live", timeout=1):
            return
        time.sleep(0.1)
    raise TimeoutError("the gateway did not start")


def _paths(port: int) -> list[str]:
    with urllib.request.urlopen(f"http://{_HOST}:{port}/openapi.json", timeout=10) as answer:
        described = json.load(answer)["paths"]
    return sorted(path for path, operations in described.items() if "post" in operations)


async def _watch(process: psutil.Process, memory: list[int], tally: _Tally, bodies: int, report: Reporter) -> None:
    while True:
        await asyncio.sleep(1)
        memory.append(process.memory_info().rss)
        report(f"{tally.sent:,} bodies, {memory[-1] >> 20} MiB", tally.sent / bodies)


async def _one_connection(port: int, paths: list[str], bodies: int, draw: random.Random, tally: _Tally) -> None:
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    for _ in range(bodies):
        path = draw.choice(paths)
        body = _body(path, draw)
        if streams is None:
            streams = await asyncio.open_connection(_HOST, port)
        try:
            async with asyncio.timeout(30):
                keeps = await _ask(streams, path, body, chunked=draw.random() < 0.1, tally=tally)
        except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError) as error:
            tally.complain(type(error).__name__, path, body)
            keeps = False
        tally.sent += 1
        if not keeps:
            streams[1].close()
            streams = None
    if streams is not None:
        streams[1].close()


async def _ask(
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], path: str, body: bytes, *, chunked: bool, tally: _Tally
) -> bool:
    """Whether the connection may be used again."""
    reader, writer = streams
    kind = "transfer-encoding: chunked" if chunked else f"content-length: {len(body)}"
    head = f"POST {path} HTTP/1.1\r\nhost: {_HOST}\r\ncontent-type: application/json\r\n{kind}\r\n\r\n".encode()
    framed = b"".join((b"%x\r\n" % len(body), body, b"\r\n") if body else ()) + b"0\r\n\r\n" if chunked else body
    writer.write(head + framed)
    await writer.drain()
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(lines[0].split()[1])
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    answer = await _content(reader, headers)
    tally.statuses[status] += 1
    if status >= 500 and status != 501:
        tally.complain(f"status {status}", path, body)
    if status >= 400 and "error" not in json.loads(answer):
        tally.complain(f"status {status} without an error object", path, body)
    if "x-request-id" not in headers:
        tally.complain("an answer without x-request-id", path, body)
    return headers.get("connection") != "close"


async def _content(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    content = b""
    while size := int((await reader.readuntil(b"\r\n")).strip() or b"0", 16):
        content += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return content


def _body(path: str, draw: random.Random) -> bytes:
    kind = draw.random()
    if kind < 0.25:
        return draw.randbytes(draw.randrange(2000))
    text = json.dumps(_varied(path, draw)).encode()
    if kind < 0.6:
        return text
    damaged = bytearray(text)
    for _ in range(draw.randrange(1, 6)):
        _damage(damaged, draw)
    return bytes(damaged)


def _varied(path: str, draw: random.Random) -> dict[str, Any]:
    """A body that is valid, there or elsewhere, with some values and names that are not."""
    needed = next((name for end, name in _NEEDED.items() if path.endswith(end)), "model")
    fitting = [body for body in _VALID if needed in body]
    body = dict(draw.choice(fitting if draw.random() < 0.9 else _VALID))
    names = sorted({name for valid in _VALID for name in valid})
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        body[draw.choice(names)] = draw.choice(_ODD_VALUES)
    return body


def _damage(text: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(text) + 1)
    match draw.randrange(4):
        case 0:
            text[at : at + 1] = draw.randbytes(1)
        case 1:
            del text[at : at + draw.randrange(1, 20)]
        case 2:
            text[at:at] = draw.choice((b"[", b"{", b'"', b"\\u0000", b"}", b",", b"1e999", b"null", b"\xff"))
        case _:
            text[at:at] = text[max(0, at - draw.randrange(1, 30)) : at]
