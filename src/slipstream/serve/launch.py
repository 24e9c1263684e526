"""How the ranks of a GPU deployment start: one function for one GPU, one machine, Slurm and LeaderWorkerSet.

==============  ====================================================================================================
shape           when
==============  ====================================================================================================
one server      one rank of `tensorrt_llm`; `llmapi` on one machine, whose LLM API starts its own workers
leader          `tensorrt_llm`, several ranks: one `tritonserver` a rank under mpirun, rank 0 serves
orchestrator    one `tritonserver` that spawns the ranks of each model, or finds them by `participant_ids`
srun            several machines under Slurm
LWS             several machines in Kubernetes: mpirun on the leader pod of a LeaderWorkerSet
==============  ====================================================================================================

Sources: TensorRT-LLM `triton_backend/scripts/launch_triton_server.py` (0a2e2c1f) and `tensorrt_llm/llmapi/
trtllm-llmapi-launch` (020c89e6), `examples/draft_target_model/README.md` (11925f62); tensorrtllm_backend
`docs/llama_multi_instance.md` and `docs/llmapi.md` (0b9d7d5a); Triton tutorials' EKS multi-node `server.py` (e8489525).
"""

from __future__ import annotations

from typing import Literal

from slipstream.command_line import Command
from slipstream.errors import SpecError
from slipstream.serve.launch_multi_node import lws_script, slurm_argv
from slipstream.serve.launch_ranks import Server, mpirun
from slipstream.serve.launch_shape import Shape, shape_of
from slipstream.serve.ports import LOOPBACK, Address
from slipstream.spec import DeploymentSpec, PortsSpec

LaunchTarget = Literal["local", "slurm", "lws"]

# What every process of the container is started with.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "PYTHONDONTWRITEBYTECODE": "1",  # a model repository is an artifact: nothing is added to it
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

# Open MPI binds a rank to a core (two ranks) or a NUMA node; a tritonserver has dozens of threads.
_MPI_ENVIRONMENT = {"OMPI_MCA_hwloc_base_binding_policy": "none"}


def launch_plan(
    spec: DeploymentSpec,
    *,
    repository: str,
    container: str | None,
    ports: PortsSpec,
    for_: LaunchTarget = "local",
    address: Address = LOOPBACK,
    shm_prefix: str = "slipstream_",
    restricted_key: str | None = None,
) -> tuple[Command, ...]:
    """The commands that serve `spec` from `repository`, a path as the server sees it.

    `address` is what rank 0 listens on. With `restricted_key` the administrative APIs want that key; without it they
    are as open as Triton leaves them to whoever reaches `address`. For Slurm the command runs on the login node; the
    directory above `repository` lies on a file system that every node has under the same path.

    Raises SpecError where the spec asks for ranks that cannot be started that way.
    """
    shape = shape_of(spec, one_machine=for_ == "local")
    server = Server(
        repository=repository,
        ports=ports,
        address=address,
        shm_prefix=shm_prefix,
        restricted_key=restricted_key,
        engine_models=_engine_models(spec),
    )
    if for_ == "local":
        return (_local(spec, shape, server, container),)
    if shape.mode == "orchestrator":
        raise SpecError(
            f"{spec.name}: the launch mode is orchestrator, which runs on one machine and outside Slurm, found {for_}",
            mend="set runtime.launch_mode to leader, or start it on one machine",
        )
    if for_ == "slurm":
        return (_slurm(spec, shape, server, container),)
    return (_lws(spec, shape, server, container),)


def _local(spec: DeploymentSpec, shape: Shape, server: Server, container: str | None) -> Command:
    if shape.mode == "single":
        # The LLM API of several GPUs spawns its workers by MPI.
        more = _MPI_ENVIRONMENT if spec.engine.world_size > 1 else None
        return _command(spec, shape, server.serving(rank=0), container, more)
    argv = mpirun(server, shape, options=())
    return _command(spec, shape, argv, container, _MPI_ENVIRONMENT | _orchestrator_environment(shape))


def _slurm(spec: DeploymentSpec, shape: Shape, server: Server, container: str | None) -> Command:
    # The image is srun's business here: the command itself runs outside of it.
    return _command(spec, shape, slurm_argv(server, shape, container), None)


def _lws(spec: DeploymentSpec, shape: Shape, server: Server, container: str | None) -> Command:
    return _command(spec, shape, ("bash", "-c", lws_script(server, shape)), container, _MPI_ENVIRONMENT)


def _command(
    spec: DeploymentSpec, shape: Shape, argv: tuple[str, ...], container: str | None, more: dict[str, str] | None = None
) -> Command:
    purpose = f"serve {spec.name}: {shape.words}"
    return Command(purpose=purpose, argv=argv, env=_ENVIRONMENT | (more or {}), container=container)


def _orchestrator_environment(shape: Shape) -> dict[str, str]:
    if shape.mode != "orchestrator":
        return {}
    return {
        "TRTLLM_ORCHESTRATOR": "1",
        "TRTLLM_ORCHESTRATOR_SPAWN_PROCESSES": "1" if shape.spawns else "0",
    }


def _engine_models(spec: DeploymentSpec) -> tuple[str, ...]:
    """What ranks other than 0 load."""
    has_draft_model = spec.engine.target == "tensorrt_llm" and spec.engine.draft is not None
    return ("tensorrt_llm", "tensorrt_llm_draft") if has_draft_model else ("tensorrt_llm",)
