"""This machine and the spec's GPUs: driver, count, formats that run there, memory."""

from __future__ import annotations

from collections.abc import Iterator

from slipstream.doctor.compatibility import Compatibility
from slipstream.doctor.facts import Facts, GpuFacts, Methods
from slipstream.doctor.findings import Finding
from slipstream.doctor.versions import is_older
from slipstream.formats import FORMATS, KvCache, Method, format_for, kv_effect, kv_problem, sm_problem
from slipstream.spec import DeploymentSpec

_MIB = 1 << 20
_GPU_SHM_BYTES = 1 << 30  # NCCL, MPI and the Python backend share it; Docker gives 64 MiB unless told
_CPU_SHM_BYTES = 256 * _MIB  # one prompt of 64 MB was seen to take 745 MB: this is for ordinary ones


def check_machine(facts: Facts, table: Compatibility) -> Iterator[Finding]:
    """What depends on where this runs."""
    yield from _driver(facts, table)
    yield from _gpus(facts)
    yield from _shared_memory(facts)


def check_formats(facts: Facts) -> Iterator[Finding]:
    """Whether weights and KV caches run on the GPUs of the spec and on those at hand."""
    if facts.spec is None or facts.methods is None or not facts.is_gpu_path:
        return
    for sm in sorted(_sms(facts)):
        for role, method, kv_cache in _formats(facts.spec, facts.methods):
            problem = sm_problem(method, sm, kv_cache)
            if problem is not None:
                yield Finding(
                    id="recipe-on-gpu",
                    severity="critical",
                    what=f"{role}quantization: {problem}",
                    mend=f"choose a recipe that sm_{sm} runs, or other GPUs",
                )
    yield from _not_in_llm_api(facts.spec, facts.methods)
    yield from _kv_formats(facts.spec, facts.methods)


def check_memory(facts: Facts) -> Iterator[Finding]:
    """What the memory table says, where the caller could make one."""
    memory = facts.memory
    if memory is None:
        return
    if memory.unknown is not None:
        yield Finding(
            id="memory-unknown",
            severity="low",
            what=f"the memory was not checked: {memory.unknown}",
            mend="name the GPU in hardware.gpu and prepare the model, then run this again",
        )
    for problem in memory.problems:
        yield Finding(
            id="memory",
            severity="critical" if problem.is_fatal else "high",
            what=problem.what,
            mend=problem.mend,
        )


def _driver(facts: Facts, table: Compatibility) -> Iterator[Finding]:
    if facts.pins is None or (facts.spec is not None and not facts.is_gpu_path):
        return  # a deployment on the CPU runs no container
    seen: set[str] = set()
    for gpu in facts.machine.gpus:
        older = is_older(gpu.driver, facts.pins.minimum_driver)
        if older is False or gpu.driver in seen:
            continue
        seen.add(gpu.driver)
        hope = (
            ""
            if gpu.is_consumer
            else "; on data-centre GPUs some older branches work through CUDA's forward compatibility package, which is"
            " in the container"
        )
        yield Finding(
            id="driver",
            severity="critical" if gpu.is_consumer and facts.is_gpu_path else "high",
            what=f"the driver is {gpu.driver}, CUDA {facts.pins.cuda} of the container comes with"
            f" {facts.pins.minimum_driver}{hope}",
            mend=f"install driver {facts.pins.minimum_driver} or newer{_older_container(gpu.driver, table)}",
        )


def _older_container(driver: str, table: Compatibility) -> str:
    """The newest container that the driver is new enough for."""
    for tag, container in table.containers.items():
        if is_older(driver, container.driver) is False:
            return f", or pin {tag} (TensorRT-LLM {container.tensorrt_llm}) and build the engines in it"
    return ""


def _gpus(facts: Facts) -> Iterator[Finding]:
    spec, gpus = facts.spec, facts.machine.gpus
    if spec is None or not facts.is_gpu_path:
        return
    if not gpus:
        yield Finding(
            id="gpu-none",
            severity="info",
            what="nvidia-smi shows no GPU here: driver and cards were not checked, only what the spec says of them",
            mend="run this again on the machine that builds and serves",
        )
        return
    needed = _gpus_needed(spec)
    if len(gpus) < needed:
        yield Finding(
            id="gpu-count",
            severity="critical",
            what=f"{len(gpus)} GPUs are here, the ranks of engine.tp_size x pp_size need {needed} on each machine",
            mend="lower engine.tp_size (the checkpoint and the engine are made again), or use a larger machine",
        )
    yield from _other_gpus(facts, gpus)


def _gpus_needed(spec: DeploymentSpec) -> int:
    """On one machine: the fewest that hold its share of the ranks, and every GPU that is named."""
    ranks = spec.engine.world_size
    machines = -(-ranks // spec.hardware.gpus_per_node) if spec.hardware else 1
    named = spec.runtime.tensorrt_llm.gpu_device_ids or "0"
    return max(-(-ranks // machines), 1 + max(map(int, named.replace(";", ",").split(","))))


def _other_gpus(facts: Facts, gpus: tuple[GpuFacts, ...]) -> Iterator[Finding]:
    others = sorted({f"{gpu.name} (sm_{gpu.sm})" for gpu in gpus if gpu.sm != facts.hardware_sm})
    if facts.hardware_sm is not None and others and facts.spec is not None and facts.spec.hardware is not None:
        yield Finding(
            id="gpu-other",
            severity="high",
            what=f"hardware.gpu is {facts.spec.hardware.gpu} (sm_{facts.hardware_sm}), here are {', '.join(others)}:"
            " an engine for one does not load on the other",
            mend="correct hardware.gpu, or run this on the machine that it means",
        )


def _shared_memory(facts: Facts) -> Iterator[Finding]:
    found = facts.machine.shm_bytes
    wanted = _GPU_SHM_BYTES if facts.is_gpu_path else _CPU_SHM_BYTES
    if found is not None and found < wanted:
        yield Finding(
            id="shared-memory",
            severity="high" if facts.is_gpu_path else "medium",
            what=f"shared memory (/dev/shm): {found // _MIB} MiB, {wanted // _MIB} are wanted: Triton's Python backend"
            " and the ranks exchange tensors there",
            mend="start the container with --shm-size=1g or more (docker/compose.yaml does)",
        )


def _sms(facts: Facts) -> set[int]:
    here = {gpu.sm for gpu in facts.machine.gpus}
    return here if facts.hardware_sm is None else {*here, facts.hardware_sm}


def _formats(spec: DeploymentSpec, methods: Methods) -> Iterator[tuple[str, Method, KvCache]]:
    yield "", methods.target, spec.quantization.kv_cache
    if spec.engine.draft is not None and methods.draft is not None:
        yield "engine.draft.", methods.draft, spec.engine.draft.quantization.kv_cache


def _not_in_llm_api(spec: DeploymentSpec, methods: Methods) -> Iterator[Finding]:
    if spec.engine.target != "llmapi":
        return
    for role, method, _ in _formats(spec, methods):
        if not format_for(method).llm_api:
            yield Finding(
                id="recipe-on-target",
                severity="critical",
                what=f"{role}quantization: the LLM API reads no checkpoint of {method}",
                mend=f"choose a recipe that docs/models.md names for llmapi, such as {', '.join(_llm_api_recipes())}",
            )


def _llm_api_recipes() -> list[str]:
    return [name for name, entry in FORMATS.items() if entry.llm_api]


def _kv_formats(spec: DeploymentSpec, methods: Methods) -> Iterator[Finding]:
    """Combinations that TensorRT-LLM refuses, or in which its builder silently switches paged context FMHA off."""
    for role, method, kv_cache in _formats(spec, methods):
        problem = kv_problem(method, kv_cache)
        if problem is not None:
            yield Finding(
                id="kv-format",
                severity="critical",
                what=f"{role}quantization.kv_cache is {kv_cache} with {method} weights: {problem}",
                mend=f"set {role}quantization.kv_cache to auto",
            )
    wanted = [name for name in ("enable_kv_cache_reuse", "enable_chunked_context") if getattr(spec.runtime, name)]
    if spec.engine.target != "tensorrt_llm" or not wanted:
        return
    for role, method, kv_cache in _formats(spec, methods):
        effect = kv_effect(method, kv_cache)
        if effect.effect == "no_paged_context_fmha":
            yield Finding(
                id="kv-format",
                severity="critical",
                what=f"{role}quantization.kv_cache is {kv_cache} with {method} weights, and runtime"
                f" {' and '.join(wanted)} true: {effect.reason}",
                mend=f"set {role}quantization.kv_cache to auto, or runtime {' and '.join(wanted)} to false",
            )
