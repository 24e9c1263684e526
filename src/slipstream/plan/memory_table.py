"""The memory of each GPU of a deployment, row by row: what is loaded, what the KV caches get, what is left.

Assumptions, which the table repeats:

- models load one after the other, the target before the draft, and each takes its KV fraction of what is free when its
  own weights are in. Seen in the log of a draft-target server: every engine prints the memory `available` to it, and
  then allocates its fraction of that (NVIDIA/TensorRT-LLM issue 2789). The other order is checked, too;
- ranks are alike: the table is that of the fullest GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipstream.errors import SlipstreamError
from slipstream.formats import Method
from slipstream.plan.catalogue import Gpu, known_gpu, known_model, read_model
from slipstream.plan.memory import kv_bytes
from slipstream.plan.memory_loads import Load, ModelOnGpu, loads_of, lora_bytes, processes, shares_a_pool, split_of
from slipstream.plan.shape import ModelShape
from slipstream.spec import DeploymentSpec, KvCacheFormat, ModelSpec

GIB = 2**30
_DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRow:
    """One line of the table."""

    name: str
    bytes: int
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryProblem:
    """What does not fit, or fits badly."""

    what: str
    mend: str
    is_fatal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTable:
    """The fullest GPU of a deployment; without rows where the model or the GPU is unknown."""

    gpu: str
    rows: tuple[MemoryRow, ...] = ()
    problems: tuple[MemoryProblem, ...] = ()
    notes: tuple[str, ...] = ()
    unknown: str | None = None  # why there are no rows

    def as_json(self) -> list[dict[str, Any]]:
        """One object a row; where nothing is known, one that says why."""
        if self.unknown is not None:
            return [{"gpu": self.gpu, "row": "unknown", "gib": None, "detail": self.unknown}]
        return [
            {"gpu": self.gpu, "row": row.name, "gib": round(row.bytes / GIB, 3), "detail": row.detail}
            for row in self.rows
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """One engine with its KV cache."""

    load: Load
    rows: tuple[MemoryRow, ...]
    kv_cache_bytes: int


def deployment_memory(
    spec: DeploymentSpec,
    *,
    method: Method,
    draft_method: Method | None = None,
    model_directory: Path | None = None,
    draft_model_directory: Path | None = None,
) -> MemoryTable | None:
    """The table of `spec`, whose recipes are of `method` and `draft_method`; None for a deployment on the CPU.

    Shapes come from the prepared model where it is there, else from the planner's catalogue by the model's name.
    """
    if spec.engine.target == "openvino":
        return None
    if spec.hardware is None:
        return MemoryTable(gpu="unknown", unknown="the spec has no hardware section: name the GPU there")
    gpu = known_gpu(spec.hardware.gpu)
    if gpu is None:
        return MemoryTable(gpu=spec.hardware.gpu, unknown=f"GPU {spec.hardware.gpu!r} is not in the catalogue")
    target = _on_gpu(spec.model, method, spec.quantization.kv_cache, model_directory)
    draft_spec, draft = spec.engine.draft, None
    if draft_spec is not None:
        kv_cache = draft_spec.quantization.kv_cache
        draft = _on_gpu(draft_spec.model, draft_method or "none", kv_cache, draft_model_directory)
    for source, found in ((spec.model.source, target), (draft_spec.model.source if draft_spec else "", draft)):
        if found is None and source:
            return MemoryTable(
                gpu=gpu.name,
                unknown=f"the shape of {source} is not known: it is neither prepared (slipstream quantize {spec.name})"
                " nor in the planner's catalogue",
            )
    assert target is not None, "it would have been said"
    return memory_table(spec, gpu, target, draft)


def memory_table(spec: DeploymentSpec, gpu: Gpu, target: ModelOnGpu, draft: ModelOnGpu | None = None) -> MemoryTable:
    """The table of `spec` on `gpu` for models of known shapes."""
    loads = tuple(loads_of(spec, gpu, target, draft))
    runtime = loads[0].memory.runtime_bytes * processes(spec, len(loads))
    rows = [MemoryRow(name="runtime", bytes=runtime, detail="CUDA context, kernels, NCCL buffers")]
    lora = lora_bytes(spec, gpu.memory_bytes - runtime - loads[0].memory.weight_bytes)
    if lora:
        rows.append(MemoryRow(name="LoRA cache", bytes=lora, detail="lora_cache_gpu_memory_fraction"))
    free = gpu.memory_bytes - runtime - lora
    problems: list[MemoryProblem] = []
    for made in (_together if shares_a_pool(spec) else _one_by_one)(loads, free, spec):
        rows += made.rows
        free -= sum(row.bytes for row in made.rows)
        problems += _problems(made, free, spec, gpu)
    rows.append(MemoryRow(name="free", bytes=free, detail="negative: does not fit" if free < 0 else "at the end"))
    rows.append(MemoryRow(name="card", bytes=gpu.memory_bytes, detail=gpu.name))
    if not shares_a_pool(spec):
        problems += _other_order(loads, gpu, runtime)
    return MemoryTable(gpu=gpu.name, rows=tuple(rows), problems=tuple(problems), notes=tuple(_notes(spec, loads)))


def memory_text(table: MemoryTable) -> str:
    """The table for a person."""
    if table.unknown is not None:
        return f"memory of one {table.gpu}: unknown: {table.unknown}\n"
    lines = [f"memory of one {table.gpu}, the fullest:"]
    lines += [f"  {row.name:<22}{row.bytes / GIB:>9.2f} GiB  {row.detail}".rstrip() for row in table.rows]
    lines += [f"  assumed: {note}" for note in table.notes]
    lines += [
        f"  {'error' if problem.is_fatal else 'warning'}: {problem.what}\n    mend: {problem.mend}"
        for problem in table.problems
    ]
    return "\n".join(lines) + "\n"


def _on_gpu(model: ModelSpec, method: Method, kv_cache: KvCacheFormat, prepared: Path | None) -> ModelOnGpu | None:
    shape = _shape(model.source, prepared)
    if shape is None:
        return None
    return ModelOnGpu(shape=shape, method=method, kv_cache=kv_cache, dtype_bytes=_DTYPE_BYTES[model.dtype])


def _shape(source: str, prepared: Path | None) -> ModelShape | None:
    """Of the prepared model, of a local model directory, or of the catalogue; None where none of them knows."""
    for directory in (prepared, Path(source).expanduser()):
        if directory is not None and (directory / "config.json").is_file():
            try:
                return read_model(directory / "config.json").shape
            except (SlipstreamError, OSError):
                continue
    found = known_model(source)
    return None if found is None else found.shape


def _one_by_one(loads: tuple[Load, ...], free: int, spec: DeploymentSpec) -> Iterator[_Made]:
    """Each engine takes its KV fraction when it has loaded, before the next one does."""
    for load in loads:
        memory = load.memory
        kv_cache = load.kv_cache_bytes(free - memory.weight_bytes - memory.activation_bytes)
        free -= memory.weight_bytes + memory.activation_bytes + kv_cache
        yield _made(load, kv_cache, spec, f"{load.kv_fraction:g} of what is left")


def _together(loads: tuple[Load, ...], free: int, spec: DeploymentSpec) -> Iterator[_Made]:
    """All weights first, then one KV budget in which each model holds the same tokens."""
    left = free - sum(load.memory.weight_bytes + load.memory.activation_bytes for load in loads)
    tokens = loads[0].kv_cache_bytes(left) / sum(load.memory.kv_bytes_per_token for load in loads)
    for load in loads:
        share = f"of the {loads[0].kv_fraction:g} of what is left that both share"
        yield _made(load, int(tokens * load.memory.kv_bytes_per_token), spec, share)


def _made(load: Load, kv_cache: int, spec: DeploymentSpec, share: str) -> _Made:
    memory = load.memory
    tokens = int(kv_cache / memory.kv_bytes_per_token)
    detail = (
        f"{share}: {tokens:,} tokens, {_requests(load, kv_cache, spec)} requests of max_seq_len ="
        f" {spec.engine.max_seq_len:,}, {load.model.kv_cache} format"
    )
    rows = (
        MemoryRow(name=f"{load.name}weights", bytes=memory.weight_bytes, detail=load.model.method),
        MemoryRow(name=f"{load.name}activations", bytes=memory.activation_bytes, detail="widest layer, logits"),
        MemoryRow(name=f"{load.name}KV cache", bytes=kv_cache, detail=detail),
    )
    return _Made(load=load, rows=rows, kv_cache_bytes=kv_cache)


def _requests(load: Load, kv_cache_bytes: int, spec: DeploymentSpec) -> int:
    """Requests of full length that the cache holds; each beam keeps tokens of its own."""
    shape, split = load.model.shape, split_of(spec)
    one = kv_bytes(shape, load.model.kv, split, spec.engine.max_seq_len) * spec.engine.max_beam_width
    return int(kv_cache_bytes / one)


def _problems(made: _Made, free: int, spec: DeploymentSpec, gpu: Gpu) -> Iterator[MemoryProblem]:
    """What is wrong with one engine, after which `free` bytes are left."""
    load, kv_cache = made.load, made.kv_cache_bytes
    if kv_cache <= 0:
        missing = -free / GIB
        yield MemoryProblem(
            what=f"{load.name or 'target '}weights and activations do not fit: {missing:.1f} GiB are missing on a"
            f" {gpu.name} of {gpu.memory_gib:g} GiB",
            mend="raise engine.tp_size, choose a smaller recipe, lower engine.max_num_tokens or engine.max_batch_size,"
            " or take a GPU with more memory",
            is_fatal=True,
        )
    elif not _requests(load, kv_cache, spec):
        tokens = int(kv_cache / load.memory.kv_bytes_per_token)
        yield MemoryProblem(
            what=f"the {load.name}KV cache holds {tokens:,} tokens, less than one request of engine.max_seq_len ="
            f" {spec.engine.max_seq_len:,}",
            mend=f"raise {load.field}, lower engine.max_seq_len, or raise engine.tp_size",
            is_fatal=False,
        )


def _other_order(loads: tuple[Load, ...], gpu: Gpu, runtime: int) -> Iterator[MemoryProblem]:
    """What breaks when Triton happens to load the draft before the target."""
    if loads[-1].name != "draft ":
        return
    free = gpu.memory_bytes - runtime
    for load in reversed(loads):
        left = free - load.memory.weight_bytes - load.memory.activation_bytes
        if left <= 0 and load is not loads[-1]:
            yield MemoryProblem(
                what=f"the target does not fit when the draft loads first: {-left / GIB:.1f} GiB are missing",
                mend="lower engine.draft.kv_cache_free_gpu_mem_fraction",
                is_fatal=False,
            )
        free = left - load.kv_cache_bytes(left)


def _notes(spec: DeploymentSpec, loads: tuple[Load, ...]) -> Iterator[str]:
    if shares_a_pool(spec):
        yield "target and draft have one KV budget in the LLM API: the draft's own fraction is not read"
    elif len(loads) > 1:
        yield (
            "engines load one after the other, the target first; each takes its KV fraction of what is then free, so"
            " fractions that sum below 1 leave room in either order"
        )
    if spec.engine.checkpoint_dir is not None:
        yield "weights are those of model.source; what engine.checkpoint_dir holds besides (draft heads) is not counted"
    if spec.engine.speculation is not None and spec.engine.speculation.speculative_model is not None:
        yield f"the heads of {spec.engine.speculation.speculative_model} are not counted"
    if spec.engine.trtllm_build.gather_context_logits:
        yield "return_context_logits takes prompt tokens x vocabulary x 4 bytes of each request that asks for it"
    if spec.runtime.tensorrt_llm.max_attention_window_size is not None:
        yield "max_attention_window_size is not counted: the cache holds more requests than it says"
