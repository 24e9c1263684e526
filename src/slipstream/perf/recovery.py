"""From the death of a process of the server to the answers of its requests, and to the next token."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psutil

from slipstream.client import Stream, TritonClient
from slipstream.errors import SlipstreamError
from slipstream.pipeline import Context
from slipstream.progress import Reporter
from slipstream.serve.supervise import served, supervise

VICTIMS = ("tensorrt_llm", "step_loop", "postprocessing", "preprocessing")
IN_FLIGHT = 4
_LIMIT_S = 60.0


def measure_recovery(context: Context, report: Reporter) -> list[dict[str, object]]:
    """One row for each kind of process: seconds until its requests were answered and until a token came again."""
    spec, workspace = context.spec, context.workspace
    rows = []
    with served(spec, workspace.model_repository, workspace.run, report) as deployment:
        grpc = deployment.server.endpoints.grpc
        prober = ThreadPoolExecutor(1)
        for victim in VICTIMS:
            report(f"killing {victim}")
            row = prober.submit(_kill, grpc, deployment.server.process.pid, victim)
            ended = threading.Event()
            row.add_done_callback(lambda _done, ended=ended: ended.set())  # type: ignore[misc]
            supervise(deployment, report, until=ended.is_set)
            rows.append(row.result())
    return rows


def _kill(grpc: str, triton_pid: int, victim: str) -> dict[str, object]:
    with TritonClient(grpc, deadline_s=_LIMIT_S) as client, ThreadPoolExecutor(IN_FLIGHT) as pool:
        streams = [client.stream(f"Once upon a time {number}", max_tokens=1500) for number in range(IN_FLIGHT)]
        for stream in streams:
            next(stream)
        process = _process(triton_pid, victim)
        started = time.monotonic()
        process.kill()
        answered = [pool.submit(_ending, stream, started) for stream in streams]
        token_after_s = _token_after(grpc, started)
        return {
            "killed": victim,
            "requests_answered_after_s": max(each.result() for each in answered),
            "token_after_s": token_after_s,
        }


def _ending(stream: Stream, started: float) -> float:
    try:
        stream.finish()
    except SlipstreamError:
        return round(time.monotonic() - started, 2)
    raise RuntimeError("a stream through a killed process ended as if nothing had happened")


def _token_after(grpc: str, started: float) -> float:
    while time.monotonic() - started < _LIMIT_S:
        try:
            with TritonClient(grpc, deadline_s=5) as client:
                client.generate("Hello", max_tokens=1)
            return round(time.monotonic() - started, 2)
        except SlipstreamError:
            time.sleep(0.05)
    raise RuntimeError(f"no token within {_LIMIT_S:g} s")


def _process(triton_pid: int, victim: str) -> psutil.Process:
    marks = {"step_loop": "slipstream.backend.step_loop"}
    for child in psutil.Process(triton_pid).children(recursive=True):
        command = " ".join(child.cmdline()) if child.status() != psutil.STATUS_ZOMBIE else ""
        if marks.get(victim, f"/{victim}/1/model.py") in command:
            return child
    raise RuntimeError(f"the server has no process of {victim}")
