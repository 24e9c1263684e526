"""What the gateway adds: its own CPU time for a request and for a streamed chunk, and the latency of an idle one.

Gateway and peers stand before the same stub and are asked by the same client, in turns. CPU time is that of the
server's own process, which a busy machine changes little; latencies are of requests that are asked directly and through
the server in turn.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from slipstream.errors import SlipstreamError
from slipstream.perf.http_load import Target, latencies_s, run_streams
from slipstream.perf.litellm_proxy import NAME as LITELLM
from slipstream.perf.litellm_proxy import prepare_litellm
from slipstream.perf.stub_gateway import MODEL, prepare_gateway
from slipstream.progress import Reporter

_START_TIMEOUT_S = 120.0
_STEP_MS = 20.0
_BLOCK = 20  # requests to one before the other's turn


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadLoad:
    """What is asked of each server in each round."""

    rounds: int = 5
    requests: int = 200
    streams: int = 64
    tokens: int = 128
    held_streams: int = 1000
    held_tokens: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A process that answers."""

    name: str
    target: Target
    process: psutil.Process

    @property
    def cpu_s(self) -> float:
        return sum(sum(one.cpu_times()[:2]) for one in [self.process, *self.process.children(recursive=True)])

    @property
    def rss_mib(self) -> float:
        return float(self.process.memory_info().rss) / 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadRow:
    """One server; medians over the rounds."""

    server: str
    added_p50_ms: float
    added_p99_ms: float
    cpu_us_per_request: float
    cpu_us_per_chunk: float
    chunks_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldStreams:
    """Many streams at once, twice; memory of the server before, after the first time and after the second."""

    streams: int
    chunks: int
    rss_mib: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverheadResult:
    """A table's worth."""

    load: OverheadLoad
    rows: list[OverheadRow]
    held: HeldStreams


def measure_gateway(
    model_dir: Path, litellm_python: Path | None, load: OverheadLoad, report: Reporter
) -> OverheadResult:
    """The gateway and, where its environment is given, LiteLLM's proxy before one stub."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        grpc, http = stack.enter_context(running_stub(_STEP_MS))
        gateway = prepare_gateway(directory, triton_grpc=f"127.0.0.1:{grpc}", model_dir=model_dir)
        starts = {"Slipstream": (gateway.command, Target(port=gateway.port, model=MODEL, key=gateway.key))}
        if litellm_python is not None:
            starts[LITELLM] = prepare_litellm(directory, litellm_python, stub_http=http)
        servers = [
            stack.enter_context(running(name, command, target, directory / f"{name}.log"))
            for name, (command, target) in starts.items()
        ]
        rows = measure_overhead(servers, Target(port=http, model=MODEL), load, report)
        return OverheadResult(load=load, rows=rows, held=hold_streams(servers[0], load))


@contextmanager
def running_stub(step_ms: float) -> Iterator[tuple[int, int]]:
    """The stub's ports: gRPC and HTTP."""
    command = [sys.executable, "-m", "slipstream.perf.stub_triton", str(step_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            grpc, http = map(int, process.stdout.readline().split())
            yield grpc, http
        finally:
            process.kill()


@contextmanager
def running(name: str, command: Sequence[str], target: Target, log: Path) -> Iterator[Server]:
    """The server that `command` starts, once it answers; its output goes into `log`."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        until = time.monotonic() + _START_TIMEOUT_S
        while not _answers(target):
            if process.poll() is not None or time.monotonic() > until:
                raise SlipstreamError(f"{log}: {name} did not start", mend="read the log")
            time.sleep(0.25)
        yield Server(name=name, target=target, process=psutil.Process(process.pid))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def measure_overhead(
    servers: Sequence[Server], direct: Target, load: OverheadLoad, report: Reporter
) -> list[OverheadRow]:
    """One row a server, whose rounds take turns; the first round warms up."""
    rounds: dict[str, list[OverheadRow]] = {server.name: [] for server in servers}
    for number in range(load.rounds + 1):
        for server in servers:
            report(f"round {number} of {load.rounds}: {server.name}", number / (load.rounds + 1))
            row = _round(server, direct, load)
            if number:
                rounds[server.name].append(row)
    return [_median(rows) for rows in rounds.values()]


def hold_streams(server: Server, load: OverheadLoad) -> HeldStreams:
    """Run `held_streams` at once, twice over: what they take the second time must have been given back."""
    rss, chunks = [server.rss_mib], 0
    for _ in range(2):
        chunks += run_streams(server.target, streams=load.held_streams, tokens=load.held_tokens, rounds=1).chunks
        rss.append(server.rss_mib)
    return HeldStreams(streams=load.held_streams, chunks=chunks, rss_mib=(rss[0], rss[1], rss[2]))


def overhead_table(result: OverheadResult) -> str:
    """As docs/gateway-performance.md shows it."""
    held = result.held
    lines = [
        "| | added p50 | added p99 | CPU a request | CPU a streamed chunk | chunks/s of one core |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row.server} | {row.added_p50_ms:.2f} ms | {row.added_p99_ms:.2f} ms | {row.cpu_us_per_request:.0f} µs"
            f" | {row.cpu_us_per_chunk:.0f} µs | {1e6 / row.cpu_us_per_chunk:,.0f} |"
            for row in result.rows
        ),
        "",
        (
            f"{held.streams:,} streams at once, {held.chunks:,} chunks in two turns: the gateway's memory was"
            f" {held.rss_mib[0]:.0f} MiB before, {held.rss_mib[1]:.0f} MiB after the first, {held.rss_mib[2]:.0f} MiB"
            " after the second."
        ),
    ]
    return "\n".join(lines)


def _round(server: Server, direct: Target, load: OverheadLoad) -> OverheadRow:
    through_s: list[float] = []
    direct_s: list[float] = []
    before_s = server.cpu_s
    for _ in range(load.requests // _BLOCK):
        through_s += latencies_s(server.target, _BLOCK)
        direct_s += latencies_s(direct, _BLOCK)
    between_s, began_s = server.cpu_s, time.monotonic()
    count = run_streams(server.target, streams=load.streams, tokens=load.tokens, rounds=1)
    return OverheadRow(
        server=server.name,
        added_p50_ms=1000 * (_quantile(through_s, 50) - _quantile(direct_s, 50)),
        added_p99_ms=1000 * (_quantile(through_s, 99) - _quantile(direct_s, 99)),
        cpu_us_per_request=1e6 * (between_s - before_s) / len(through_s),
        cpu_us_per_chunk=1e6 * (server.cpu_s - between_s) / count.chunks,
        chunks_per_s=count.chunks / (time.monotonic() - began_s),
    )


def _median(rows: Sequence[OverheadRow]) -> OverheadRow:
    return OverheadRow(
        server=rows[0].server,
        added_p50_ms=statistics.median(row.added_p50_ms for row in rows),
        added_p99_ms=statistics.median(row.added_p99_ms for row in rows),
        cpu_us_per_request=statistics.median(row.cpu_us_per_request for row in rows),
        cpu_us_per_chunk=statistics.median(row.cpu_us_per_chunk for row in rows),
        chunks_per_s=statistics.median(row.chunks_per_s for row in rows),
    )


def _quantile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _answers(target: Target) -> bool:
    try:
        latencies_s(target, 1)
    except (OSError, RuntimeError):
        return False
    return True
