"""The engines that one GPU of a deployment loads: their shapes, formats and shares of its memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from slipstream.formats import Method, format_for
from slipstream.plan.catalogue import Gpu
from slipstream.plan.formats import KvFormat, WeightFormat
from slipstream.plan.memory import GpuMemory, Limits, Parallelism, gpu_memory
from slipstream.plan.shape import ModelShape
from slipstream.spec import DeploymentSpec, KvCacheFormat

_LORA_FRACTION = 0.05  # the backend's default of lora_cache_gpu_memory_fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOnGpu:
    """A model of a deployment, in the format that is served."""

    shape: ModelShape
    method: Method
    kv_cache: KvCacheFormat
    dtype_bytes: int = 2

    @property
    def weights(self) -> WeightFormat:
        bits = format_for(self.method).bits_per_weight
        return WeightFormat(name=self.method, bytes_per_weight=bits / 8, peak="bf16", recipe=self.method)

    @property
    def kv(self) -> KvFormat:
        size = self.dtype_bytes if self.kv_cache == "auto" else 1
        return KvFormat(name=self.kv_cache, bytes_per_element=size, minimum_sm=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One engine that is loaded on the GPU."""

    name: str  # "", "draft " or "instance 2 "
    field: str  # of the KV fraction in the spec
    model: ModelOnGpu
    memory: GpuMemory
    kv_fraction: float
    kv_limit_bytes: float | None = None  # of max_tokens_in_paged_kv_cache

    def kv_cache_bytes(self, free: int) -> int:
        given = max(0, int(free * self.kv_fraction))
        return given if self.kv_limit_bytes is None else min(given, int(self.kv_limit_bytes))


def loads_of(spec: DeploymentSpec, gpu: Gpu, target: ModelOnGpu, draft: ModelOnGpu | None) -> Iterator[Load]:
    """The engines on one GPU, in the order in which they are assumed to load."""
    engine, runtime = spec.engine, spec.runtime
    fraction, cap = runtime.kv_cache_free_gpu_mem_fraction, runtime.tensorrt_llm.max_tokens_in_paged_kv_cache
    speculating = engine.draft or engine.speculation
    drafted = speculating.max_draft_len if speculating else 0
    memory = _memory(spec, gpu, target, drafted)
    share = runtime.tensorrt_llm.gpu_weights_percent
    for instance in range(1, _instances_per_gpu(spec) + 1):
        yield Load(
            name="" if instance == 1 else f"instance {instance} ",
            field="runtime.kv_cache_free_gpu_mem_fraction",
            model=target,
            memory=memory if share is None else _streamed(memory, share),
            kv_fraction=fraction,
            kv_limit_bytes=None if cap is None else cap * memory.kv_bytes_per_token,
        )
    if draft is not None and engine.draft is not None:
        yield Load(
            name="draft ",
            field="engine.draft.kv_cache_free_gpu_mem_fraction",
            model=draft,
            memory=_memory(spec, gpu, draft, 0),
            kv_fraction=engine.draft.kv_cache_free_gpu_mem_fraction,
        )


def processes(spec: DeploymentSpec, loads: int) -> int:
    """CUDA contexts on one GPU: an orchestrator has a worker for each engine, else one process loads them all."""
    return loads if spec.is_orchestrated else 1


def shares_a_pool(spec: DeploymentSpec) -> bool:
    """Whether target and draft have one KV budget: the LLM API loads both, then gives them equally many tokens.

    Source: `KvCacheCreator` of tensorrt_llm/_torch/pyexecutor/_util.py, which adds up the bytes per token of both.
    """
    return spec.engine.target == "llmapi" and spec.engine.draft is not None


def lora_bytes(spec: DeploymentSpec, free: int) -> int:
    if spec.engine.lora is None or spec.engine.target != "tensorrt_llm":
        return 0
    fraction = spec.runtime.tensorrt_llm.lora_cache_gpu_memory_fraction
    return max(0, int(free * (_LORA_FRACTION if fraction is None else fraction)))


def split_of(spec: DeploymentSpec) -> Parallelism:
    return Parallelism(tp=spec.engine.tp_size, pp=spec.engine.pp_size, ep=spec.engine.moe_ep_size)


def _memory(spec: DeploymentSpec, gpu: Gpu, model: ModelOnGpu, draft_tokens: int) -> GpuMemory:
    """Of one engine; the builder widens an engine that verifies draft tokens to hold them for every request."""
    engine = spec.engine
    rows = engine.max_batch_size * engine.max_beam_width * (draft_tokens + 1)
    return gpu_memory(
        model.shape,
        gpu,
        weights=model.weights,
        kv=model.kv,
        split=split_of(spec),
        limits=Limits(
            max_batch_size=rows,
            max_num_tokens=max(engine.max_num_tokens, engine.max_batch_size * (draft_tokens + 1)),
            max_seq_len=engine.max_seq_len,
        ),
    )


def _streamed(memory: GpuMemory, share: float) -> GpuMemory:
    return GpuMemory(
        capacity_bytes=memory.capacity_bytes,
        weight_bytes=int(memory.weight_bytes * share),
        draft_bytes=0,
        activation_bytes=memory.activation_bytes,
        runtime_bytes=memory.runtime_bytes,
        kv_fraction=memory.kv_fraction,
        kv_bytes_per_token=memory.kv_bytes_per_token,
    )


def _instances_per_gpu(spec: DeploymentSpec) -> int:
    """How many copies of the engine the fullest GPU carries."""
    ids = spec.runtime.tensorrt_llm.gpu_device_ids
    if ids is None or ";" not in ids:
        return spec.runtime.engine_instances
    groups = [set(group.split(",")) for group in ids.split(";")]
    return max(sum(gpu in group for group in groups) for group in groups for gpu in group)
