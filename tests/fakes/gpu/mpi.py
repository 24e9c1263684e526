"""`mpirun` of Open MPI, one machine: parses its application contexts and runs a process for each rank.

Like the real one it puts every rank into a process group of its own (orte/mca/odls/default/odls_default_module.c; PRRTE
as well): a signal to mpirun's group does not reach the ranks. SIGTERM and SIGINT end the job; SIGKILL of mpirun leaves
the ranks behind. Per-rank rules of Triton's launch: tests/contract/trtllm-1.2.1/launch.json.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpu.machine import record
from gpu.processes import run_all

_RULE = "-" * 74
_FLAGS = {"--allow-run-as-root", "--oversubscribe", "--tag-output", "--report-bindings"}
_WITH_VALUE = {"--host": 1, "-host": 1, "-H": 1, "--bind-to": 1, "--map-by": 1, "-x": 1, "--mca": 2, "-mca": 2}
_COUNTS = {"-n", "-np", "--np", "-c"}


class RefusalError(Exception):
    """The command line is not one that mpirun takes."""


@dataclass(slots=True, kw_only=True)
class Segment:
    """One application context: how many ranks run which command."""

    ranks: int
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Job:
    """The whole command line."""

    segments: list[Segment]
    flags: set[str]
    slots: int | None = None  # of the hosts that were named
    rsh_agent: str | None = None

    @property
    def ranks(self) -> int:
        return sum(segment.ranks for segment in self.segments)


def main(argv: Sequence[str]) -> int:
    record("mpirun", argv)
    try:
        job = parse(argv)
        _refuse(job)
    except RefusalError as refusal:
        print(f"{_RULE}\n{refusal}\n{_RULE}", file=sys.stderr)
        return 1
    return _run(job)


def parse(argv: Sequence[str]) -> Job:
    """The application contexts, which `:` separates; an empty last one is allowed, as Triton's own script leaves it."""
    contexts: list[list[str]] = [[]]
    for argument in argv:
        if argument == ":":
            contexts.append([])
        else:
            contexts[-1].append(argument)
    if len(contexts) > 1 and not contexts[-1]:
        contexts.pop()
    job = Job(segments=[], flags=set())
    for context in contexts:
        job.segments.append(_segment(context, job))
    return job


def _segment(context: list[str], job: Job) -> Segment:
    """One context: options up to the first word without a dash, then the command."""
    rest = list(context)
    segment = Segment(ranks=0, command=[])
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        if option in _FLAGS:
            if job.segments:
                raise RefusalError(f"mpirun: {option} is global: it stands before the first application")
            job.flags.add(option)
        elif option in _COUNTS:
            text = rest.pop(0) if rest else ""
            if not text.isdigit() or int(text) < 1:
                raise RefusalError(f"mpirun: Error: option {option} needs a positive number, got {text!r}")
            segment.ranks = int(text)
        elif option in _WITH_VALUE:
            values = [rest.pop(0) for _ in range(_WITH_VALUE[option]) if rest]
            _take_values(option, values, segment, job)
        else:
            raise RefusalError(f"mpirun: Error: unknown option \"{option}\"\nType 'mpirun --help' for usage.")
    if not rest:
        raise RefusalError("mpirun could not find anything to do. Specify an executable for every application.")
    if segment.ranks == 0:
        raise RefusalError(f"No -n was given for {rest[0]}: the rank rules of tritonserver need one process each")
    segment.command = rest
    return segment


def _take_values(option: str, values: list[str], segment: Segment, job: Job) -> None:
    if len(values) != _WITH_VALUE[option]:
        raise RefusalError(f'mpirun: Error: option "{option}" did not have enough parameters')
    if option == "-x":
        name, has_value, value = values[0].partition("=")
        segment.env[name] = value if has_value else os.environ[name]
    if option in {"--host", "-host", "-H"}:
        job.slots = sum(int(host.partition(":")[2] or 1) for host in values[0].split(","))
    if values[0] == "plm_rsh_agent":
        job.rsh_agent = values[1]


def _refuse(job: Job) -> None:
    if os.geteuid() == 0 and "--allow-run-as-root" not in job.flags:
        raise RefusalError(
            "mpirun has detected an attempt to run as root. Add --allow-run-as-root to override this check."
        )
    slots = job.slots or int(os.environ.get("FAKE_SLOTS", "64"))
    if job.ranks > slots and "--oversubscribe" not in job.flags:
        raise RefusalError(f"There are not enough slots available in the system to satisfy the {job.ranks} slots")
    for segment in job.segments:
        if shutil.which(segment.command[0]) is None:
            raise RefusalError(f"mpirun was unable to find the specified executable file: {segment.command[0]}")
    if job.rsh_agent is not None and shutil.which(job.rsh_agent) is None:
        raise RefusalError(f"The rsh agent {job.rsh_agent} was not found")
    servers = [segment for segment in job.segments if Path(segment.command[0]).name == "tritonserver"]
    prefixes = [
        argument for segment in servers for argument in segment.command if "shm-region-prefix-name=" in argument
    ]
    if any(segment.ranks > 1 for segment in servers) or len(prefixes) != len(servers):
        raise RefusalError("launch.json: -n 1 and a shm-region-prefix-name for every tritonserver")
    if len(set(prefixes)) != len(prefixes):
        raise RefusalError("launch.json: two ranks share a shm-region-prefix-name")


def _run(job: Job) -> int:
    commands: list[tuple[Sequence[str], Mapping[str, str]]] = []
    for segment in job.segments:
        for _ in range(segment.ranks):
            rank = str(len(commands))
            env = {"OMPI_COMM_WORLD_SIZE": str(job.ranks), "OMPI_COMM_WORLD_RANK": rank}
            commands.append((segment.command, {**os.environ, **segment.env, **env}))
    ended = run_all(commands)
    if ended.rank is not None:
        print(_exit_text(ended.rank, ended.code), file=sys.stderr)
    return ended.code


def _exit_text(rank: int, code: int) -> str:
    return (
        f"{_RULE}\nmpirun detected that one or more processes exited with non-zero status, thus causing\n"
        f"the job to be terminated. The first process to do so was:\n\n  Process name: [[40526,1],{rank}]\n"
        f"  Exit code:    {code}\n{_RULE}"
    )
