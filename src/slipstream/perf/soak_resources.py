"""What every process of a server holds while it is used, and whether that grows."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from slipstream.serve.watchdog import STUB

CLIENT, STEP_LOOP = "client", "step_loop"
_FILLING_S = 200.0
_SHM = Path("/dev/shm")  # noqa: S108 - where Linux keeps POSIX shared memory
# Growth a minute that is still flat: a leak of a thread or a file a request is a hundred times that.
_POINTS = 60
LIMITS = {"rss_mib": 2.0, "threads": 1.0, "files": 2.0, "shm_mib": 0.5}
# Growth in all that says nothing: allocators take memory in steps, and what is busy has more threads than what is not.
NOISE = {"rss_mib": 16.0, "threads": 4.0, "files": 8.0, "shm_mib": 2.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at one process, or at the shared memory of one server."""

    role: str
    generation: int  # pid of the server; after a fault it is another
    at_s: float
    values: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How one quantity of one role changed with time, all servers of the run together."""

    role: str
    quantity: str
    first: float
    last: float
    per_minute: float
    error_per_minute: float  # standard error of the slope
    minutes: float  # the longest time that one server was watched

    @property
    def is_flat(self) -> bool:
        is_noise = self.per_minute * self.minutes <= NOISE[self.quantity]
        return is_noise or self.per_minute - 2 * self.error_per_minute <= LIMITS[self.quantity]


def look(triton_pid: int, shm_prefix: str) -> list[Sample]:
    """The server's processes, this one, and the server's shared memory."""
    now = time.monotonic()
    samples = [
        Sample(role=role, generation=0 if role == CLIENT else triton_pid, at_s=now, values=values)
        for role, process in _processes(triton_pid)
        if (values := _values(process)) is not None
    ]
    held = sum(_size(region) for region in _SHM.glob(f"{shm_prefix}*"))
    shared = Sample(role="shared memory", generation=triton_pid, at_s=now, values={"shm_mib": held / 2**20})
    return [*samples, shared]


def growths(samples: Iterable[Sample], warm_up_s: float, pool_mib: float = 0.0) -> list[Growth]:
    """The slope of each quantity of each role, after the first `warm_up_s` of each server.

    The step loop is warm when it holds as much more as its KV cache has, `pool_mib`, and more than three minutes have
    passed: prompts that are repeated fill the cache slowly.
    """
    first: dict[tuple[int, str], Sample] = {}
    kept: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    warm: set[int] = set()  # generations whose cache has been filled
    for sample in samples:
        begun = first.setdefault((sample.generation, sample.role), sample)
        if sample.role == STEP_LOOP:
            held_mib = sample.values["rss_mib"] - begun.values["rss_mib"]
            if held_mib >= pool_mib:
                warm.add(sample.generation)
        if sample.at_s - begun.at_s >= warm_up_s:
            for quantity in sample.values:
                is_filling = sample.generation not in warm or sample.at_s - begun.at_s < _FILLING_S
                if (sample.role, quantity) != (STEP_LOOP, "rss_mib") or not is_filling:
                    kept[sample.role, quantity].append(sample)
    return [_growth(role, quantity, rows) for (role, quantity), rows in sorted(kept.items()) if len(rows) > 3]


def courses(samples: Sequence[Sample]) -> dict[str, list[list[float]]]:
    """Seconds and MiB of each role, thinned out: what a plot would show."""
    found: dict[str, list[list[float]]] = defaultdict(list)
    for sample in samples:
        held = sample.values.get("rss_mib", sample.values.get("shm_mib", 0.0))
        found[sample.role].append([round(sample.at_s - samples[0].at_s), round(held, 1)])
    return {role: rows[:: max(1, len(rows) // _POINTS)] for role, rows in sorted(found.items())}


def _growth(role: str, quantity: str, rows: Sequence[Sample]) -> Growth:
    """One slope for all generations; each has its own level."""
    minutes, values = [], []
    for generation in {row.generation for row in rows}:
        own = [row for row in rows if row.generation == generation]
        at = np.array([row.at_s / 60 for row in own])
        held = np.array([row.values[quantity] for row in own])
        minutes.append(at - at.mean())
        values.append(held - held.mean())
    x, y = np.concatenate(minutes), np.concatenate(values)
    spread = float((x * x).sum())
    slope = float((x * y).sum()) / spread if spread else 0.0
    error = float(np.sqrt(((y - slope * x) ** 2).mean() / spread)) if spread else 0.0
    return Growth(
        role=role,
        quantity=quantity,
        first=round(rows[0].values[quantity], 1),
        last=round(rows[-1].values[quantity], 1),
        per_minute=round(slope, 3),
        error_per_minute=round(error, 3),
        minutes=round(float(max(np.ptp(at) for at in minutes)), 2),
    )


def _processes(triton_pid: int) -> list[tuple[str, psutil.Process]]:
    found = [(CLIENT, psutil.Process())]
    try:
        server = psutil.Process(triton_pid)
        found.append(("tritonserver", server))
        found += [(_role(child), child) for child in server.children(recursive=True)]
    except psutil.Error:
        pass  # it has just been killed
    return [(role, process) for role, process in found if role]


def _role(process: psutil.Process) -> str:
    """The model of a stub or the module of another process; empty if it has ended."""
    try:
        command = process.cmdline()
    except psutil.Error:
        return ""
    if not command:
        return ""
    if Path(command[0]).name == STUB:
        return Path(command[1]).parent.parent.name
    return next((part.rpartition(".")[2] for part in command if part.startswith("slipstream.")), "")


def _values(process: psutil.Process) -> dict[str, float] | None:
    try:
        with process.oneshot():
            rss = process.memory_info().rss / 2**20
            return {"rss_mib": rss, "threads": process.num_threads(), "files": process.num_fds()}
    except psutil.Error:
        return None


def _size(region: Path) -> int:
    try:
        return region.stat().st_size
    except OSError:
        return 0


def sample_until(is_over: Callable[[], bool], now: Callable[[], list[Sample]], period_s: float) -> list[Sample]:
    """Samples every `period_s`."""
    samples: list[Sample] = []
    while not is_over():
        samples += now()
        time.sleep(period_s)
    return samples
