"""A soak: mixed traffic on every path for a long time, a process of the server killed now and then."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import psutil

from slipstream.perf.provenance import provenance
from slipstream.perf.soak_resources import LIMITS, NOISE, Growth, Sample, courses, growths, look, sample_until
from slipstream.perf.soak_traffic import Addresses, Faults, Traffic, total
from slipstream.pipeline import Context
from slipstream.progress import Reporter
from slipstream.serve.supervise import ServedDeployment, served, supervise
from slipstream.text.tokenizer import Tokenizer

VICTIMS = ("tensorrt_llm", "postprocessing", "tensorrt_llm_bls", "preprocessing")  # a step loop is its model's affair
_DRAIN_S = 20.0


def run_soak(
    context: Context, *, minutes: float, kill_every_s: float, workers: int, seed: int, report: Reporter
) -> dict[str, Any]:
    """What came of it. `context`'s deployment should be in accuracy mode: only there an answer is known to the byte."""
    faults = Faults()
    pool_mib = 1024.0 * context.spec.runtime.kv_cache_gib
    killed: list[str] = []
    said: list[str] = []
    with served(context.spec, context.workspace.model_repository, context.workspace.run, report) as deployment:
        where = deployment.server.endpoints
        report("asking for the known answers")
        tokenizer = Tokenizer.load(context.workspace.model)
        traffic = Traffic(Addresses(where.grpc, where.http), tokenizer, faults)
        end = time.monotonic() + 60 * minutes
        with ThreadPoolExecutor(2) as pool:
            over = threading.Event()
            warm_up_s = min(60.0, kill_every_s / 3)
            samples = pool.submit(
                sample_until, over.is_set, lambda: _look(deployment, faults), min(5.0, kill_every_s / 60)
            )
            pool.submit(_kill_now_and_then, deployment, faults, killed, kill_every_s, end, over)
            with _traffic(traffic, workers, seed, over):
                supervise(deployment, _telling(report, faults, said), until=lambda: time.monotonic() > end)
        left = _left_in_engine(where.metrics)
        seen = samples.result()
        log = deployment.server.log.read_text(errors="replace")
    return _counted(traffic, faults) | {
        "minutes": minutes,
        "workers": workers,
        "killed": killed,
        "supervisor_said": said,
        "left_in_engine": left,
        "tracebacks_in_log": log.count("Traceback (most recent call last)"),
        "warm_up_s": warm_up_s,
        "limits_a_minute": LIMITS,
        "noise": NOISE,
        "growth": [_row(each) for each in growths(seen, warm_up_s, pool_mib)],
        "memory_mib": courses(seen),
    }


def _counted(traffic: Traffic, faults: Faults) -> dict[str, Any]:
    return {
        "provenance": provenance(),
        "requests": total(traffic.counts),
        "counts": dict(sorted(traffic.counts.items())),
        "seconds_until_served_again": [round(over - begun, 1) for begun, over in faults.spans if over != float("inf")],
        "problems": traffic.problems,
    }


def complaints(result: dict[str, Any]) -> list[str]:
    """Why a soak was not passed; empty if it was."""
    problems = [str(problem) for problem in result["problems"]]
    problems += [f"not flat: {row}" for row in result["growth"] if not row["is_flat"]]
    if result["left_in_engine"]:
        problems.append(f"{result['left_in_engine']} requests are left in the engine")
    replaced = sum("replacing the server" in line for line in result["supervisor_said"])
    if replaced != len(result["killed"]):
        problems.append(f"the server was replaced {replaced} times, for {len(result['killed'])} kills")
    return problems


@contextmanager
def _traffic(traffic: Traffic, workers: int, seed: int, over: threading.Event) -> Iterator[None]:
    traffic.start(workers, seed)
    try:
        yield
    finally:
        traffic.stop()
        over.set()


def _telling(report: Reporter, faults: Faults, said: list[str]) -> Callable[[str], None]:
    def log(text: str) -> None:
        report(text)
        said.append(text)
        if text.startswith("serving again"):
            faults.end()

    return log


def _kill_now_and_then(
    deployment: ServedDeployment,
    faults: Faults,
    killed: list[str],
    every_s: float,
    end: float,
    over: threading.Event,
) -> None:
    """One process of each kind in turn; none so late that the server would not be back for a while of traffic."""
    while time.monotonic() + 1.5 * every_s < end and not over.wait(every_s):
        victim = VICTIMS[len(killed) % len(VICTIMS)]
        process = _process(deployment.server.process.pid, victim)
        faults.begin()
        killed.append(victim)
        process.kill()


def _process(triton_pid: int, victim: str) -> psutil.Process:
    mark = f"/{victim}/1/model.py"
    for child in psutil.Process(triton_pid).children(recursive=True):
        if child.status() != psutil.STATUS_ZOMBIE and mark in " ".join(child.cmdline()):
            return child
    raise RuntimeError(f"the server has no process of {victim}")


def _look(deployment: ServedDeployment, faults: Faults) -> list[Sample]:
    server = deployment.server
    return [] if faults.is_open else look(server.process.pid, server.prefix)


def _left_in_engine(metrics: str) -> int:
    """Requests that the engine still has after everybody has gone and a while has passed."""
    deadline, left = time.monotonic() + _DRAIN_S, 1
    while left and time.monotonic() < deadline:
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as reply:
            found = re.search(r'request_type="active"[^}]*\} (\S+)', reply.read().decode())
        left = int(float(found[1])) if found else 0
        time.sleep(0.2)
    return left


def _row(growth: Growth) -> dict[str, object]:
    return {**asdict(growth), "is_flat": growth.is_flat}
