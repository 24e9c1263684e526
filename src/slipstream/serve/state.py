"""What serves where: one `state.json` per served deployment, read by `status` and `down`."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from slipstream.errors import SlipstreamError

_STATE = "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingState:
    """A deployment that is being served."""

    deployment: str
    pid: int  # of the slipstream process that supervises tritonserver
    created: float  # that process's creation time: a pid alone may have been given to another process
    triton_http: str | None
    triton_grpc: str
    triton_metrics: str | None
    gateway: str | None = None  # URL
    drain_s: float = 0.0  # that the gateway may take to end
    sets: tuple[str, ...] = ()  # what of the deployment was overridden
    is_ready: bool = False  # a token has come out


def write_state(run: Path, state: ServingState) -> None:
    temporary = run / f".{_STATE}.partial"
    try:
        temporary.write_text(json.dumps(asdict(state), indent=2) + "\n")
        temporary.rename(run / _STATE)
    finally:
        temporary.unlink(missing_ok=True)


def read_state(run: Path) -> ServingState | None:
    """The state of a deployment that is starting or served right now, else None."""
    try:
        stored = json.loads((run / _STATE).read_text())
        state = ServingState(**{**stored, "sets": tuple(stored["sets"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return state if supervisor(state) else None


def supervisor(state: ServingState) -> psutil.Process | None:
    """The process that supervises, if it still runs."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(state.pid)
        if abs(process.create_time() - state.created) < 1 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def this_process() -> tuple[int, float]:
    """Pid and creation time of this process."""
    return os.getpid(), psutil.Process().create_time()


@contextlib.contextmanager
def serving(run: Path, deployment: str) -> Iterator[None]:
    """Be the only one that serves from `run`; the state file goes when the block ends."""
    run.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run / ".serving", timeout=0):
            try:
                yield
            finally:
                (run / _STATE).unlink(missing_ok=True)
    except Timeout as error:
        raise already_served(run, deployment) from error


def already_served(run: Path, deployment: str) -> SlipstreamError:
    state = read_state(run)
    who = f"process {state.pid}, gRPC {state.triton_grpc}" if state else "another process, which is still starting"
    return SlipstreamError(f"{deployment} is already served by {who}", mend=f"slipstream down {deployment}")
