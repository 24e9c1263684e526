"""One server, be it one `tritonserver` or the ranks of a GPU deployment: started, proved by a token, stopped whole."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slipstream.command_line import Command
from slipstream.errors import SlipstreamError
from slipstream.progress import Reporter
from slipstream.serve.health import TEXT_PROBE, Health, Probe, has_answered
from slipstream.serve.installation import Installation, arrange_installation
from slipstream.serve.ports import LOOPBACK, Endpoints, endpoints
from slipstream.serve.shared_memory import region_prefix, sweep
from slipstream.spec import PortsSpec

# At the usual 8 MB an HTTP JSON body over ~6 MB, or one in a million chunks, overflows the server's stack.
STACK_BYTES = 256 << 20
_STOP_GRACE_S = 20.0
# Of the server, for the responses of one Python model. At the 32 that it has by itself each response wakes another one,
# whose data no cache holds. A call of a BLS model takes one while it waits, and the request that stops it another.
_RESPONSE_THREADS = 2
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class TritonServer:
    """A running server."""

    process: subprocess.Popen[bytes]
    ports: PortsSpec
    log: Path
    prefix: str  # of its shared-memory regions
    probe: Probe = TEXT_PROBE

    @property
    def endpoints(self) -> Endpoints:
        return endpoints(self.ports)

    @property
    def health(self) -> Health:
        return Health(self.endpoints.http, self.endpoints.metrics, self.probe)

    @property
    def name(self) -> str:
        """The program that was started: tritonserver, or mpirun over several of them."""
        arguments = self.process.args
        assert isinstance(arguments, list), "started by start_triton or start_ranks"
        return Path(arguments[0]).name

    def wait_until_ready(self, timeout_s: float, report: Reporter) -> None:
        """Return when a token has come out; SlipstreamError gives the log's reason if none does."""
        started = time.monotonic()
        while not has_answered(self.health):
            waited_s = time.monotonic() - started
            if self.process.poll() is not None:
                raise self._failure(f"{self.name} ended with code {self.process.returncode} while starting")
            if waited_s > timeout_s:
                raise self._failure(f"no token within runtime.startup_timeout_s = {timeout_s:g} s")
            report(f"loading models ({waited_s:.0f} s)")
            time.sleep(0.2)

    def stop(self) -> None:
        """Let the server end in good order, within a grace; then as `kill`."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_GRACE_S)
        self.kill()

    def kill(self) -> None:
        """End the server, its ranks and its stubs at once, and remove the shared memory that they left."""
        # The server leads its own process group, which holds the stubs too. mpirun gives each rank a group of its own:
        # they are found by the session, also when mpirun itself is gone.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pid in _session(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        sweep(self.prefix)

    def _failure(self, what: str) -> SlipstreamError:
        return SlipstreamError(f"{what}: {_reason(self.log)}", mend=f"read {self.log}")


def start_triton(repository: Path, ports: PortsSpec, run_directory: Path) -> TritonServer:
    """Start the embedded `tritonserver` on `repository`, on loopback; logs go to `run_directory`/triton.log."""
    run_directory.mkdir(parents=True, exist_ok=True)
    installation = arrange_installation(run_directory)
    prefix = region_prefix(os.getpid())
    argv = _command(installation, repository, ports, prefix)
    process, log = _start(argv, installation.environment, run_directory)
    return TritonServer(process, ports, log, prefix)


def start_ranks(
    command: Command, ports: PortsSpec, run_directory: Path, *, environment: Mapping[str, str], probe: Probe
) -> TritonServer:
    """Start a command of `launch_plan` in this container, beside `environment`; logs as with `start_triton`."""
    run_directory.mkdir(parents=True, exist_ok=True)
    process, log = _start(command.argv, {**environment, **command.env}, run_directory)
    return TritonServer(process, ports, log, region_prefix(os.getpid()), probe)


def _start(
    argv: Sequence[str], environment: Mapping[str, str], run_directory: Path
) -> tuple[subprocess.Popen[bytes], Path]:
    """The process, in a session of its own, and its log."""
    log = run_directory / "triton.log"
    if log.exists():
        log.replace(run_directory / "triton.log.1")  # of the server before, which may have failed
    with log.open("wb") as stream:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=run_directory,
            start_new_session=True,
            preexec_fn=_before_exec,  # noqa: PLW1509 - only async-signal-safe system calls
        )
    return process, log


def _command(installation: Installation, repository: Path, ports: PortsSpec, prefix: str) -> Sequence[str]:
    unknown = secrets.token_hex(16)
    return [
        str(installation.tritonserver),
        f"--model-repository={repository}",
        f"--backend-directory={installation.backend_directory}",
        f"--cache-directory={installation.cache_directory}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        f"--backend-config=python,thread-pool-size={_RESPONSE_THREADS}",
        # Every model is loaded once, at the start. Open model control would let any page that a browser on this
        # machine shows load a model of its own, that is: run its code.
        "--model-control-mode=none",
        # Nobody needs these, and they write files and map memory: behind a key that nobody has.
        f"--http-restricted-api=model-repository,shared-memory,trace,logging:slipstream={unknown}",
        f"--grpc-restricted-protocol=model-repository,shared-memory,trace,logging:slipstream={unknown}",
        "--disable-auto-complete-config",
        "--exit-on-error=true",
        "--exit-timeout-secs=10",
        "--allow-gpu-metrics=false",
        f"--http-address={LOOPBACK}",
        f"--http-port={ports.http}",
        f"--grpc-address={LOOPBACK}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-address={LOOPBACK}",
        f"--metrics-port={ports.metrics}",
    ]


def _session(leader: int) -> Iterator[int]:
    """The processes of the session that `leader` began, without itself."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != leader:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getsid(int(entry.name)) == leader:
                    yield int(entry.name)


def _before_exec() -> None:
    """In the child: a stack for large bodies, and an end of its own should this process be killed."""
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _reason(log: Path) -> str:
    """Why the server did not start: the first model that failed to load, else the last error, else the last words."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    failed = [line for line in lines if "failed to load '" in line]
    errors = [line for line in lines if line.startswith(("E", "error"))]
    reason = (failed[:1] or errors[-1:] or [_last_words(lines)])[0]
    return reason.partition(r"\n\nAt:")[0].partition("] ")[2][-600:] or reason[-600:]


def _last_words(lines: Sequence[str]) -> str:
    """The last line, or all that mpirun says between its last two rules of dashes."""
    rules = [number for number, line in enumerate(lines) if set(line.strip()) == {"-"}]
    if len(rules) > 1 and rules[-1] == len(lines) - 1:
        return " ".join(line.strip() for line in lines[rules[-2] + 1 : rules[-1]])
    return lines[-1] if lines else "the log is empty"
