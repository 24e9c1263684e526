"""Gathers what `serve.preflight` judges: from the PATH, the driver, /dev/shm, the engines and the scheduler."""

from __future__ import annotations

import json
import resource
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from slipstream.project import Workspace
from slipstream.serve.ports import is_free
from slipstream.serve.preflight import BusyPort, EngineFiles, Facts
from slipstream.spec import DeploymentSpec, PortsSpec

_PROGRAMS = ("tritonserver", "mpirun", "trtllm-llmapi-launch", "kubessh")
_CONFIG_BYTES = 16 << 20
_SMI_TIMEOUT_S = 60  # the first call after a boot loads the driver


def gather(spec: DeploymentSpec, workspace: Workspace, ports: PortsSpec, environment: Mapping[str, str]) -> Facts:
    """The facts of this machine for `spec`, whose artifacts are in `workspace`."""
    hosts = lws_hosts(environment)
    return Facts(
        gpus=visible_gpus(environment),
        shm_bytes=shutil.disk_usage("/dev/shm").total,  # noqa: S108 - where Linux keeps POSIX shared memory
        memlock_bytes=_memlock(),
        programs=frozenset(name for name in _PROGRAMS if shutil.which(name, path=environment.get("PATH"))),
        engines=_engines(spec, workspace),
        busy_ports=_busy(ports),
        machines=_machines(environment),
        unknown_hosts=tuple(host for host in hosts if not _has_address(host)),
    )


def visible_gpus(environment: Mapping[str, str]) -> int | None:
    """How many GPUs a process with `environment` would see; None without a driver or a GPU."""
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        listed = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_SMI_TIMEOUT_S, env=dict(environment)
        )
    except (OSError, subprocess.SubprocessError):
        return None
    present = len([line for line in listed.stdout.splitlines() if line.strip()])
    if not present or chosen is None:
        return present or None
    return min(present, len([device for device in chosen.split(",") if device.strip() not in {"", "-1"}]))


def engine_files(directory: Path) -> EngineFiles:
    """What an engine directory holds; a config.json that is not TensorRT-LLM's counts as none."""
    ranks = {int(number) for path in directory.glob("rank*.engine") if (number := path.stem[4:]).isdecimal()}
    return EngineFiles(directory=str(directory), world_size=_world_size(directory), ranks=frozenset(ranks))


def lws_hosts(environment: Mapping[str, str]) -> Sequence[str]:
    """The pods of this LeaderWorkerSet's group, leader first; empty outside of one.

    A group's leader is NAME-GROUP and worker I is NAME-GROUP-I, all in the leader's subdomain.
    """
    leader, size = environment.get("LWS_LEADER_ADDRESS"), environment.get("LWS_GROUP_SIZE", "")
    if not leader or not size.isdecimal():
        return ()
    pod, dot, domain = leader.partition(".")
    return (leader, *(f"{pod}-{worker}{dot}{domain}" for worker in range(1, int(size))))


def _world_size(directory: Path) -> int | None:
    path = directory / "config.json"
    try:
        if path.stat().st_size > _CONFIG_BYTES:
            return None
        size = json.loads(path.read_text(encoding="utf-8"))["pretrained_config"]["mapping"]["world_size"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return size if isinstance(size, int) and size > 0 else None


def _engines(spec: DeploymentSpec, workspace: Workspace) -> dict[str, EngineFiles]:
    if spec.engine.target != "tensorrt_llm":
        return {}
    engines = {"engine": engine_files(workspace.engine)}
    if spec.engine.draft is not None:
        engines["engine.draft"] = engine_files(workspace.draft.engine)
    return engines


def _busy(ports: PortsSpec) -> tuple[BusyPort, ...]:
    wanted = (("http", ports.http), ("grpc", ports.grpc), ("metrics", ports.metrics))
    return tuple(BusyPort(name=name, port=port) for name, port in wanted if not is_free(port))


def _memlock() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY else soft


def _machines(environment: Mapping[str, str]) -> int | None:
    for name in ("LWS_GROUP_SIZE", "SLURM_JOB_NUM_NODES"):
        if environment.get(name, "").isdecimal():
            return int(environment[name])
    return None


def _has_address(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return False
    return True
