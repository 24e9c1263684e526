"""How many ranks a deployment has, who starts them, and on how many machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slipstream.errors import SpecError
from slipstream.spec import DeploymentSpec

Mode = Literal["single", "leader", "orchestrator", "llmapi"]

# More than any machine shows, MIG slices counted: a larger id is a slip, and each id below the largest is an argument.
_MOST_GPUS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The processes of one replica."""

    mode: Mode  # "single": one tritonserver without MPI; "llmapi": ranks under trtllm-llmapi-launch
    ranks: int  # processes that mpirun or srun starts
    gpus: tuple[int, ...]  # of one machine, that the replica uses
    nodes: int = 1
    spawns: bool = False  # orchestrator: the server starts the ranks of its models itself

    @property
    def ranks_per_node(self) -> int:
        return self.ranks // self.nodes

    @property
    def words(self) -> str:
        machines = f" on {self.nodes} machines" if self.nodes > 1 else ""
        if self.mode == "single":
            return "one server"
        if self.mode == "orchestrator":
            return "an orchestrator that spawns its ranks" if self.spawns else f"an orchestrator of {self.ranks} ranks"
        return f"{self.ranks} ranks{machines}"


def shape_of(spec: DeploymentSpec, *, one_machine: bool) -> Shape:
    """The shape of `spec`: on `one_machine`, or spread over those that `hardware` names."""
    if spec.engine.target == "openvino":
        raise SpecError(
            f"{spec.name}: engine.target is openvino, which has no ranks: it runs in one tritonserver on the CPU",
            mend=f"start it with slipstream serve {spec.name}",
        )
    nodes = _nodes(spec)
    if one_machine and nodes > 1:
        raise SpecError(
            f"{spec.name}: engine.tp_size x pp_size is {spec.engine.world_size}, one machine has"
            f" {_gpus_per_node(spec)} GPUs: the ranks need {nodes} machines",
            mend="start it under Slurm or with a LeaderWorkerSet",
        )
    if spec.engine.target == "llmapi":
        # On one machine the LLM API starts its own workers: no mpirun (upstream's `--no-mpi`).
        return _leader(spec, nodes, "single" if one_machine else "llmapi")
    if spec.is_orchestrated:
        return _orchestrator(spec)
    return _leader(spec, nodes, "leader" if spec.engine.world_size > 1 else "single")


def _leader(spec: DeploymentSpec, nodes: int, mode: Mode) -> Shape:
    world = spec.engine.world_size
    return Shape(mode=mode, ranks=1 if mode == "single" else world, gpus=_gpus(spec, world // nodes), nodes=nodes)


def _orchestrator(spec: DeploymentSpec) -> Shape:
    if _nodes(spec) > 1:
        raise SpecError(
            f"{spec.name}: engine.tp_size x pp_size is {spec.engine.world_size}, one machine has"
            f" {_gpus_per_node(spec)} GPUs: an orchestrator runs on one machine",
            mend="set runtime.launch_mode to leader, with which upstream does not document a draft model",
        )
    gpus = _gpus(spec, spec.engine.world_size)
    participants = spec.runtime.tensorrt_llm.participant_ids
    if participants is None:
        return Shape(mode="orchestrator", ranks=1, gpus=gpus, spawns=True)
    return Shape(mode="orchestrator", ranks=_orchestrated_ranks(spec, participants), gpus=gpus)


def _orchestrated_ranks(spec: DeploymentSpec, participants: str) -> int:
    """Rank 0, then those of the draft, then those of each instance of the target."""
    world = spec.engine.world_size
    instances = [[int(rank) for rank in instance.split(",")] for instance in participants.split(";")]
    where = f"{spec.name}: runtime.tensorrt_llm.participant_ids is {participants}"
    if len(instances) != spec.runtime.engine_instances or any(len(instance) != world for instance in instances):
        raise SpecError(
            f"{where}, expected {spec.runtime.engine_instances} instances of {world} ranks",
            mend="give each instance tp_size x pp_size ranks, instances apart by semicolons",
        )
    first = 1 + (world if spec.engine.draft else 0)
    ranks = first + world * len(instances)
    if sorted(rank for instance in instances for rank in instance) != list(range(first, ranks)):
        raise SpecError(
            f"{where}, expected the ranks {first} to {ranks - 1}, each once",
            mend="rank 0 is the orchestrator, then come the draft's ranks, then the target's",
        )
    return ranks


def _nodes(spec: DeploymentSpec) -> int:
    """Machines that the ranks of one replica need."""
    world, per_node = spec.engine.world_size, _gpus_per_node(spec)
    nodes = -(-world // per_node)
    if world % nodes:
        raise SpecError(
            f"{spec.name}: engine.tp_size x pp_size is {world}, which {nodes} machines do not share evenly",
            mend="choose tp_size x pp_size as a multiple of the machines",
        )
    return nodes


def _gpus_per_node(spec: DeploymentSpec) -> int:
    return spec.hardware.gpus_per_node if spec.hardware else spec.engine.world_size


def _gpus(spec: DeploymentSpec, count: int) -> tuple[int, ...]:
    """Ids of the GPUs that a machine's ranks use: those named, else the first ones."""
    named = spec.runtime.tensorrt_llm.gpu_device_ids
    if named is None:
        return tuple(range(count))
    instances = [[int(gpu) for gpu in instance.split(",")] for instance in named.split(";")]
    where = f"{spec.name}: runtime.tensorrt_llm.gpu_device_ids is {named}"
    if any(len(set(instance)) != count or len(instance) != count for instance in instances):
        raise SpecError(
            f"{where}, expected {count} different GPUs for each instance, one for each of its ranks on a machine",
            mend="name as many GPUs as an instance has ranks, instances apart by semicolons",
        )
    gpus = tuple(sorted({gpu for instance in instances for gpu in instance}))
    if gpus[-1] >= _MOST_GPUS:
        raise SpecError(
            f"{where}, the largest id that is taken is {_MOST_GPUS - 1}",
            mend="give ids as nvidia-smi lists them, from 0 on",
        )
    return gpus
