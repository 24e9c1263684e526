"""MPI ranks and GPUs of each engine, as the parameters `participant_ids` and `gpu_device_ids` write them.

An orchestrator that does not spawn its workers is rank 0; the draft's ranks come next, then those of each instance of
the target. Upstream numbers them so in its own example (TensorRT-LLM, examples/draft_target_model, pull request 3797).
"""

from __future__ import annotations

from slipstream.spec import DeploymentSpec

Groups = tuple[tuple[int, ...], ...]  # the ids of each instance


def groups(text: str | None) -> Groups:
    """The ids in `0,1;2,3`: members by commas, instances by semicolons; empty where the parameter is not given."""
    if not text:
        return ()
    return tuple(tuple(int(number) for number in instance.split(",")) for instance in text.split(";"))


def nodes_of(spec: DeploymentSpec) -> int:
    """Machines that the ranks of one instance need; without `hardware`, one."""
    if spec.hardware is None:
        return 1
    return -(-spec.engine.world_size // spec.hardware.gpus_per_node)


def draft_ranks(spec: DeploymentSpec) -> tuple[int, ...]:
    """The first ranks after the orchestrator's, as many as the target has."""
    return tuple(range(1, spec.engine.world_size + 1))


def target_ranks(spec: DeploymentSpec) -> Groups:
    """What `participant_ids` must be: the ranks of each instance of the target, after those of the draft."""
    size = spec.engine.world_size
    first = 1 + (size if spec.engine.draft else 0)
    return tuple(
        tuple(range(first + instance * size, first + (instance + 1) * size))
        for instance in range(spec.runtime.engine_instances)
    )


def as_text(instances: Groups) -> str:
    return ";".join(",".join(str(number) for number in members) for members in instances)
