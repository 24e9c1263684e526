"""From a client that goes away to its place in the engine being free, on every path, beside running streams."""

from __future__ import annotations

import json
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from slipstream.client import TritonClient
from slipstream.errors import SlipstreamError
from slipstream.pipeline import Context
from slipstream.progress import Reporter
from slipstream.serve.ports import Endpoints
from slipstream.serve.supervise import served
from slipstream.text.tokenizer import Tokenizer
from slipstream.upstreams import gateway_of

BESIDE = 4  # streams that run on
TRIALS = 15
_LIMIT_S = 10.0
_LONG = 1500  # tokens: none ends by itself while it is looked at
_ACTIVE = re.compile(r'^nv_trt_llm_request_metrics\{[^}]*request_type="active"[^}]*\} (\S+)$', re.MULTILINE)
# A client whose process is killed.
_CLIENT = """
import sys
from slipstream.client import TritonClient
with TritonClient(sys.argv[1]) as client:
    for chunk in client.stream("Once upon a time", max_tokens=1500, model="ensemble"):
        print(len(chunk.text), flush=True)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """One path: milliseconds from leaving to the engine's metrics without the request, over `trials` trials.

    `step_ms` is the median time between the tokens of a stream beside it, which is what one step takes; looking at the
    metrics takes a few milliseconds of what is reported.
    """

    path: str
    trials: int
    median_ms: float
    longest_ms: float
    step_ms: float


def measure_cancellation(context: Context, report: Reporter) -> list[Freed]:
    """One row a path."""
    spec, workspace = context.spec, context.workspace
    tokenizer = Tokenizer.load(workspace.model)
    configure = gateway_of(spec, root=context.root, model_dir=workspace.model)
    with served(spec, workspace.model_repository, workspace.run, report, gateway=configure) as deployment:
        where, gateway = deployment.server.endpoints, deployment.gateway
        assert gateway is not None, "the deployment has one"
        ids = tokenizer.encode("Once upon a time")
        leavers = _leavers(where, ids) | {"the gateway, HTTP events": lambda: _by_chat(gateway.config.port, spec.name)}
        with _streams_beside(where.grpc, ids) as gaps:
            return [_measured(path, leave, where.metrics, gaps, report) for path, leave in leavers.items()]


def _measured(path: str, leave: Callable[[], float], metrics: str, gaps: list[float], report: Reporter) -> Freed:
    gaps.clear()
    times = []
    for trial in range(TRIALS):
        report(f"{path}, {trial + 1} of {TRIALS}")
        times.append(_freed_after(metrics, leave))
    return Freed(
        path=path,
        trials=TRIALS,
        median_ms=round(statistics.median(times), 1),
        longest_ms=round(max(times), 1),
        step_ms=round(1000 * statistics.median(gaps), 1),
    )


def cancellation_table(rows: list[Freed]) -> str:
    """The rows in Markdown."""
    lines = [f"| {row.path} | {row.median_ms:.0f} | {row.longest_ms:.0f} | {row.step_ms:.0f} |" for row in rows]
    return "\n".join(["| a client of | median ms | longest ms | one step, ms |", "|---|---:|---:|---:|", *lines])


def _leavers(where: Endpoints, ids: list[int]) -> dict[str, Callable[[], float]]:
    """By path: begins a reply, leaves it after its first token, and gives the time at which it left."""

    def by_grpc(model: str) -> float:
        with TritonClient(where.grpc) as client:
            if model == "tensorrt_llm":
                stream = client.stream_tokens(ids, max_tokens=_LONG)
            else:
                stream = client.stream("Once upon a time", max_tokens=_LONG, model=model)
            next(stream)
            left = time.monotonic()
            stream.close()
            return left

    return {
        "`tensorrt_llm`, gRPC": lambda: by_grpc("tensorrt_llm"),
        "`tensorrt_llm_bls`, gRPC": lambda: by_grpc("tensorrt_llm_bls"),
        "`ensemble`, gRPC": lambda: by_grpc("ensemble"),
        "`ensemble`, HTTP events": lambda: _by_events(where.http),
        "`ensemble`, process killed": lambda: _by_kill(where.grpc),
    }


def _by_events(http: str) -> float:
    _, _, port = http.rpartition(":")
    body = {"text_input": "Once upon a time", "max_tokens": _LONG, "stream": True}
    return _first_event(int(port), "/v2/models/ensemble/generate_stream", body)


def _by_chat(port: int, model: str) -> float:
    body = {"model": model, "prompt": "Once upon a time", "max_tokens": _LONG, "min_tokens": _LONG, "stream": True}
    return _first_event(port, "/v1/completions", body)


def _first_event(port: int, path: str, fields: dict[str, object]) -> float:
    """Ask, wait for the first event and close the connection; the time then."""
    body = json.dumps(fields)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{head}\r\n\r\n{body}".encode())
        while b"data:" not in connection.recv(65536):
            pass
        return time.monotonic()


def _by_kill(grpc: str) -> float:
    with subprocess.Popen([sys.executable, "-c", _CLIENT, grpc], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        left = time.monotonic()
        process.kill()
    return left


def _freed_after(metrics: str, leave: Callable[[], float]) -> float:
    """Milliseconds."""
    before = _active(metrics)
    left = leave()
    while _active(metrics) > before:
        if time.monotonic() - left > _LIMIT_S:
            raise RuntimeError(f"a request was still in the engine {_LIMIT_S:g} s after its client left")
        time.sleep(0.001)
    return 1000 * (time.monotonic() - left)


def _active(metrics: str) -> float:
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=5) as answer:
        found = _ACTIVE.search(answer.read().decode())
    assert found is not None, "the engine's metrics are always there"
    return float(found[1])


@contextmanager
def _streams_beside(grpc: str, ids: list[int]) -> Iterator[list[float]]:
    """Streams that begin again whenever they end; gives the seconds between tokens of one of them, as they come."""
    gaps: list[float] = []
    stopping = threading.Event()

    def run(number: int) -> None:
        with TritonClient(grpc) as client, suppress(SlipstreamError):
            while not stopping.is_set():
                last_s = None
                for _ in (stream := client.stream_tokens([*ids, number], max_tokens=_LONG)):
                    now_s = time.monotonic()
                    if number == 0 and last_s is not None:
                        gaps.append(now_s - last_s)
                    last_s = now_s
                    if stopping.is_set():
                        stream.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(BESIDE)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(2)  # all of them give tokens
        yield gaps
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
