"""Run `trtllm-build`: progress from its log, an explained failure, and a look at what it made.

The lines that mark progress are those of tensorrt_llm/builder.py (`build_engine`), tensorrt_llm/_common.py
(`serialize_engine`) and tensorrt_llm/commands/build.py (`main`), TensorRT-LLM 1.2. Ranks do not sign their lines and
mix where several are built at once, so progress counts marks.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from slipstream.engine.trtllm.expected import Derived
from slipstream.engine.trtllm.failures import Evidence, not_found
from slipstream.engine.trtllm.gpus import Gpu, query_gpus
from slipstream.engine.trtllm.made import check_engine
from slipstream.engine.trtllm.plan import BuildPlan
from slipstream.engine.trtllm.rules import Role
from slipstream.errors import SlipstreamError, SpecError
from slipstream.progress import Reporter

_POLL_S = 0.2
_STOP_GRACE_S = 10.0
_READ_BYTES = 1 << 20
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    """A line that every rank prints once."""

    pattern: re.Pattern[str]
    share: float  # of a rank's time that it ends, cumulative
    then: str  # what the rank does next


# The shares are of logged builds of 7B and 8B models: most of the time TensorRT tries kernels.
_MARKS = (
    _Mark(pattern=re.compile(r"Total time of constructing network"), share=0.15, then="reading weights"),
    _Mark(pattern=re.compile(r"Build TensorRT engine "), share=0.05, then="choosing kernels"),
    _Mark(pattern=re.compile(r"Total time of building (?!all engines)"), share=0.65, then="writing the engine"),
    _Mark(pattern=re.compile(r"Engine serialized\. Total time"), share=0.15, then="written"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReport:
    """What a build made, for the manifest."""

    role: Role
    tensorrt_llm: str  # version that built it, as config.json says
    gpu: Gpu | None  # that it was built on, and runs on
    seconds: float
    rank_bytes: tuple[int, ...]
    command: str
    derived: tuple[Derived, ...]
    not_said: tuple[str, ...]  # planned values of which the engine's config.json does not speak


def build_engine(plan: BuildPlan, out: Path, report: Reporter, *, log: Path) -> EngineReport:
    """Run `plan`, whose output directory is `out`; `log` keeps all that was printed, whatever happens.

    Ctrl-C ends every process of the build. Raises SlipstreamError that explains a failure.
    """
    assert Path(plan.output_dir) == out, "a plan is for one directory"
    if shutil.which(plan.command.argv[0]) is None:
        raise not_found(plan.command)
    gpu = next(iter(query_gpus()), None)
    _require_gpu(plan, gpu)
    _require_space(plan, out)
    started = time.monotonic()
    _run(plan, report, log)
    made = check_engine(plan, out)
    return EngineReport(
        role=plan.role,
        tensorrt_llm=made.version,
        gpu=gpu,
        seconds=round(time.monotonic() - started, 1),
        rank_bytes=made.rank_bytes,
        command=plan.command.shell_text,
        derived=plan.derived,
        not_said=made.not_said,
    )


def _require_gpu(plan: BuildPlan, gpu: Gpu | None) -> None:
    """An engine runs on the kind of GPU that it was built on."""
    if gpu is not None and plan.sm is not None and gpu.sm != plan.sm:
        raise SpecError(
            f"hardware.gpu is an sm_{plan.sm}, this machine has {gpu.name}, sm_{gpu.sm}: an engine runs on the kind of"
            " GPU that it was built on",
            mend="build on the GPUs that serve, or let hardware.gpu name these",
        )


def _require_space(plan: BuildPlan, out: Path) -> None:
    free = shutil.disk_usage(out).free
    if plan.engine_bytes is not None and free < plan.engine_bytes:
        raise SlipstreamError(
            f"{out}: {free / 1e9:.1f} GB are free, the engine takes at least {plan.engine_bytes / 1e9:.1f} GB",
            mend="free some space, or use another directory with --out",
        )


def _run(plan: BuildPlan, report: Reporter, log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    watch = _Watch(plan.world_size, report)
    with log.open("wb") as stream:
        stream.write(f"$ {plan.command.shell_text}\n".encode())
        stream.flush()
        # Into the file and not a pipe: a worker that outlives its parent would hold a pipe open for ever.
        with _process(plan, stream.fileno()) as process, log.open("rb") as reader:
            while (returncode := process.poll()) is None:
                watch.read(reader.read(_READ_BYTES))
                time.sleep(_POLL_S)
            while part := reader.read(_READ_BYTES):
                watch.read(part)
    watch.end()
    if returncode != 0:
        raise watch.evidence.failure(returncode, log)


@contextlib.contextmanager
def _process(plan: BuildPlan, output: int) -> Iterator[subprocess.Popen[bytes]]:
    """The running command; when the block ends, in whatever way, all its processes end."""
    process = subprocess.Popen(
        plan.command.argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **plan.command.env},
        start_new_session=True,
        preexec_fn=_end_with_parent,  # noqa: PLW1509 - only an async-signal-safe system call
    )
    try:
        yield process
    finally:
        _end_group(process)


def _end_with_parent() -> None:
    """In the child: end, should this process be killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_GRACE_S)
    # Also workers that outlived the process that started them.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Watch:
    """Reads the log as it grows: progress for people, evidence for a failure."""

    def __init__(self, ranks: int, report: Reporter) -> None:
        self.evidence = Evidence()
        self._ranks = ranks
        self._report = report
        self._rest = b""
        self._seen = [0] * len(_MARKS)
        self._doing = "loading TensorRT-LLM and the checkpoint"
        self._tell()

    def read(self, part: bytes) -> None:
        *lines, self._rest = re.split(rb"[\r\n]", self._rest + part)
        self._rest = self._rest[-_READ_BYTES:]
        for line in lines:
            self._line(line.decode(errors="replace"))

    def end(self) -> None:
        self._line(self._rest.decode(errors="replace"))

    def _line(self, line: str) -> None:
        self.evidence.read(line)
        for index, mark in enumerate(_MARKS):
            if self._seen[index] < self._ranks and mark.pattern.search(line):
                self._seen[index] += 1
                self._doing = mark.then
                self._tell()

    def _tell(self) -> None:
        done = sum(count * mark.share for count, mark in zip(self._seen, _MARKS, strict=True)) / self._ranks
        engines = "engine" if self._ranks == 1 else "engines"
        self._report(f"{self._seen[-1]} of {self._ranks} {engines}, {self._doing}", min(done, 1.0))
