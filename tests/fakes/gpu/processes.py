"""Runs the ranks of a job side by side until the first one fails, all are done, or the job is told to stop.

Each rank leads a process group of its own, as under Open MPI and Slurm: a signal to the launcher's group does not reach
the ranks; killing the launcher leaves them behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

_GRACE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a job ended."""

    code: int
    rank: int | None = None  # that failed first


def run_all(commands: Sequence[tuple[Sequence[str], Mapping[str, str]]]) -> Ended:
    """Run each command in its environment; SIGTERM and SIGINT end them all."""
    told: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        told.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note)
    processes = [subprocess.Popen(command, env=env, process_group=0) for command, env in commands]
    while not told:
        codes = [process.poll() for process in processes]
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed:
            code = codes[failed[0]] or 1
            _end(processes)
            return Ended(code=128 - code if code < 0 else code, rank=failed[0])
        if all(code == 0 for code in codes):
            return Ended(code=0)
        time.sleep(0.02)
    _end(processes)
    return Ended(code=128 + told[0])


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    _signal_all(processes, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(deadline - time.monotonic(), 0.01))
    _signal_all(processes, signal.SIGKILL)
    for process in processes:
        process.wait()


def _signal_all(processes: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
