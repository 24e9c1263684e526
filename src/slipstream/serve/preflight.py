"""What must be true of a machine before ranks start: each thing that is not, in words, instead of a launch that hangs.

`preflight` judges `Facts`, which `serve.preflight_facts` gathers; it touches nothing itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from slipstream.errors import SlipstreamError
from slipstream.serve.launch import LaunchTarget
from slipstream.serve.launch_shape import Shape, shape_of
from slipstream.spec import DeploymentSpec

# Docker gives 64 MB. The Python models' regions start at 1 MB each and grow with a prompt; NCCL's lie there too.
# Triton's python_backend README starts its container with --shm-size=1g.
SHM_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFiles:
    """An engine directory as it lies on disk."""

    directory: str
    world_size: int | None  # as its config.json says; None: no readable config.json
    ranks: frozenset[int]  # of its rank{N}.engine files


@dataclass(frozen=True, slots=True, kw_only=True)
class BusyPort:
    """A port that something listens on."""

    name: str  # under runtime.ports
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was found on the machine that is about to serve."""

    gpus: int | None  # that CUDA would see; None: there is no NVIDIA driver
    shm_bytes: int
    memlock_bytes: int | None  # None: unlimited
    programs: frozenset[str]  # of those that a launch may need, the ones on the PATH
    engines: Mapping[str, EngineFiles] = field(default_factory=dict)  # field of the spec → files
    busy_ports: tuple[BusyPort, ...] = ()
    machines: int | None = None  # that the scheduler gave; None: it says nothing
    unknown_hosts: tuple[str, ...] = ()  # of the scheduler's hosts, those whose name has no address


def preflight(spec: DeploymentSpec, facts: Facts, *, for_: LaunchTarget = "local") -> tuple[SlipstreamError, ...]:
    """Everything that would stop `spec` from starting here; empty: it may start."""
    shape = shape_of(spec, one_machine=for_ == "local")
    found = (
        *_programs(shape, facts, for_),
        *_gpus(spec, shape, facts),
        *_memory(shape, facts),
        *_engines(spec, facts),
        *_ports(facts),
        *_machines(shape, facts, for_),
    )
    return tuple(SlipstreamError(f"{spec.name}: {what}", mend=mend) for what, mend in found)


def require_ready(spec: DeploymentSpec, facts: Facts, *, for_: LaunchTarget = "local") -> None:
    """Raise one SlipstreamError that names everything which `preflight` finds."""
    refusals = preflight(spec, facts, for_=for_)
    if refusals:
        raise SlipstreamError(
            "\n".join(refusal.message for refusal in refusals),
            mend="; ".join(dict.fromkeys(refusal.mend for refusal in refusals)),
        )


_Found = Iterator[tuple[str, str]]
"""What is wrong, and what mends it."""


def _programs(shape: Shape, facts: Facts, for_: LaunchTarget) -> _Found:
    needed = {"tritonserver"}
    if for_ == "lws" or (for_ == "local" and shape.mode != "single"):
        needed.add("mpirun")
    if shape.mode == "llmapi":
        needed.add("trtllm-llmapi-launch")
    if for_ == "lws":
        needed.add("kubessh")
    for program in sorted(needed - facts.programs):
        yield f"{program} is not on the PATH, the launch needs it", "run this in the image of docker/Dockerfile.triton"


def _gpus(spec: DeploymentSpec, shape: Shape, facts: Facts) -> _Found:
    if facts.gpus is None:
        yield "nvidia-smi shows no GPU", "give the container its GPUs: docker run --gpus all, with a driver on the host"
        return
    if max(shape.gpus) >= facts.gpus:
        named = spec.runtime.tensorrt_llm.gpu_device_ids
        reason = f"gpu_device_ids is {named}" if named else f"{len(shape.gpus)} ranks on this machine need a GPU each"
        yield (
            f"{facts.gpus} GPUs are visible, {reason}: {max(shape.gpus) + 1} are needed",
            "give the container more GPUs (CUDA_VISIBLE_DEVICES, --gpus), or build with a smaller tp_size x pp_size",
        )


def _memory(shape: Shape, facts: Facts) -> _Found:
    if facts.shm_bytes < SHM_BYTES:
        yield (
            f"/dev/shm has {facts.shm_bytes >> 20} MiB, the models' processes need {SHM_BYTES >> 20} MiB",  # noqa: S108
            "start the container with --shm-size=8g (Kubernetes: an emptyDir of medium Memory on /dev/shm)",
        )
    if shape.nodes > 1 and facts.memlock_bytes is not None:
        yield (
            f"ulimit -l is {facts.memlock_bytes >> 10} KiB: transfers between machines lock their memory",
            "start the container with --ulimit memlock=-1",
        )


def _engines(spec: DeploymentSpec, facts: Facts) -> _Found:
    world = spec.engine.world_size
    mend = f"build it again: slipstream build {spec.name}"
    for name, engine in facts.engines.items():
        if engine.world_size is None:
            yield f"{engine.directory}: no readable config.json, {name} has not been built", mend
            continue
        if engine.world_size != world:
            yield f"{engine.directory}: {name} was built for {engine.world_size} ranks, the spec says {world}", mend
        missing = sorted(set(range(engine.world_size)) - engine.ranks)
        if missing:
            files = ", ".join(f"rank{rank}.engine" for rank in missing)
            yield f"{engine.directory}: {files} missing, config.json says {engine.world_size} ranks", mend


def _ports(facts: Facts) -> _Found:
    for busy in facts.busy_ports:
        yield (
            f"port {busy.port} (runtime.ports.{busy.name}) is busy",
            f"stop what listens there, or choose another: --set runtime.ports.{busy.name}=PORT",
        )


def _machines(shape: Shape, facts: Facts, for_: LaunchTarget) -> _Found:
    if for_ == "local":
        return
    if facts.machines is not None and facts.machines != shape.nodes:
        size = "the LeaderWorkerSet's size" if for_ == "lws" else "the job's --nodes"
        yield f"the scheduler gave {facts.machines} machines, the ranks need {shape.nodes}", f"set {size} accordingly"
    for host in facts.unknown_hosts:
        yield f"the host {host} has no address", "wait until all pods of the group run; check the group's service"
