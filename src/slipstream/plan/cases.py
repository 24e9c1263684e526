"""One thing to predict: a model on GPUs under a load; and the numbers about it that the cost model works with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from slipstream.plan.catalogue import Gpu, Model
from slipstream.plan.formats import KvFormat, WeightFormat
from slipstream.plan.memory import GpuMemory, Limits, Parallelism, gpu_memory, kv_bytes, requests_in_kv, weight_bytes
from slipstream.plan.shape import ModelShape

Floats = NDArray[np.float64]
Runtime = Literal["engine", "pytorch", "vllm", "sglang"]

GENERATIONS = ("ampere", "ada", "hopper", "blackwell")
RUNTIMES: tuple[Runtime, ...] = ("engine", "pytorch", "vllm", "sglang")
# What trtllm-bench builds when it is not told otherwise, and what TensorRT-LLM's documented tables were measured with.
_DEFAULT_MAX_BATCH = 2048
_DEFAULT_MAX_TOKENS = 8192
_SMALL_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A replica under load; `concurrency` None means as many requests as fit, all there from the start."""

    model: Model
    gpu: Gpu
    weights: WeightFormat
    kv: KvFormat
    split: Parallelism
    input_tokens: float
    output_tokens: float
    concurrency: float | None = None
    requests: int | None = None  # in the whole measurement; None: steady state
    runtime: Runtime = "engine"
    version: str = ""
    kv_fraction: float = 0.95
    max_batch_size: int = _DEFAULT_MAX_BATCH
    max_num_tokens: int = _DEFAULT_MAX_TOKENS
    hop_gb_s: float | None = None  # between pipeline stages; None: the GPU's own link


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Cases as arrays of one length; bytes and operations are those of one rank: its tensor share of its stage."""

    active: Floats  # requests in the batch of the replica
    last_wave: Floats  # requests in the last, partial wave; 0: none
    waves: Floats  # whole waves; 1 in steady state
    input_tokens: Floats
    output_tokens: Floats
    layers: Floats
    tp: Floats
    pp: Floats
    hop: Floats  # bytes/s from one pipeline stage to the next
    dense_bytes: Floats
    expert_bytes: Floats
    expert_count: Floats  # 1 without experts
    experts_per_token: Floats
    token_flops: Floats  # linear layers, of one token
    expert_share: Floats  # of token_flops
    head_flops: Floats  # lm_head, of one generated token
    prompt_attention_flops: Floats  # of one prompt
    reply_attention_flops: Floats  # of one generated token at mean context
    kv_read_bytes: Floats  # of one generated token at mean context
    hidden_bytes: Floats  # one token's activation vector in 16 bits
    bandwidth: Floats
    peak: Floats
    peak16: Floats
    link: Floats
    is_pcie: Floats
    is_attention_dp: Floats
    ffn_per_rank: Floats  # of one expert, where there are experts
    dense_width: Floats  # of the dense products: what a rank has of the widest
    generation: NDArray[np.int64]
    runtime: NDArray[np.int64]
    format_fp8: Floats
    format_fp4: Floats
    format_wo: Floats


def active_requests(case: Case) -> int:
    """How many requests of the case run at once: what was asked for, cut by the KV cache and the batch limit.

    0 when the weights leave no room for one request.
    """
    wanted = case.concurrency if case.concurrency is not None else case.requests
    ranks = case.split.tp if case.split.attention_dp else 1
    batch = min(case.max_batch_size * ranks, wanted or case.max_batch_size * ranks)
    # An engine is built for the batch that it can hold: logits for a larger one would only take room.
    first = _held(case, min(batch / ranks, _SMALL_BATCH))
    return int(min(_held(case, min(batch, max(first, 1)) / ranks), batch))


def case_memory(case: Case, max_batch_size: float) -> GpuMemory:
    """The memory table of a case with so many requests at once."""
    limits = Limits(
        max_batch_size=math.ceil(max_batch_size),
        max_num_tokens=case.max_num_tokens,
        max_seq_len=math.ceil(case.input_tokens + case.output_tokens),
    )
    return gpu_memory(
        case.model.shape,
        case.gpu,
        weights=case.weights,
        kv=case.kv,
        split=case.split,
        limits=limits,
        kv_fraction=case.kv_fraction,
    )


def _held(case: Case, max_batch_size: float) -> int:
    tokens = case.input_tokens + case.output_tokens
    memory = case_memory(case, max_batch_size)
    return requests_in_kv(case.model.shape, memory, case.kv, case.split, tokens)


def columns(cases: Sequence[Case]) -> Columns:
    """The arrays of `cases`. Every case must have room for one request."""
    rows = [_row(case) for case in cases]
    # Indices into GENERATIONS and RUNTIMES stay whole numbers.
    whole = {"generation", "runtime"}
    arrays: dict[str, Any] = {
        name: np.array([row[name] for row in rows], dtype=np.int64 if name in whole else np.float64)
        for name in Columns.__slots__
    }
    return Columns(**arrays)


def prompt_attention_flops(shape: ModelShape, tokens: float) -> float:
    """Operations of QK and AV over one causal prompt, all layers and heads."""
    width = shape.head_dim
    if shape.latent is not None:
        width = (shape.latent.nope_dim + shape.latent.rope_dim + shape.latent.value_dim) // 2
    seen = tokens / 2
    in_window = min(seen, shape.window.tokens) if shape.window else seen
    full_layers = shape.layers - shape.windowed_layers
    return 4 * shape.heads * width * tokens * (full_layers * seen + shape.windowed_layers * in_window)


def reply_attention_flops(shape: ModelShape, context: float) -> float:
    """Operations of QK and AV of one new token after `context` tokens; latent attention works on the latent vector."""
    width = shape.head_dim
    if shape.latent is not None:
        width = shape.latent.kv_rank + shape.latent.rope_dim // 2
    in_window = min(context, shape.window.tokens) if shape.window else context
    full_layers = shape.layers - shape.windowed_layers
    return 4 * shape.heads * width * (full_layers * context + shape.windowed_layers * in_window)


def _row(case: Case) -> dict[str, float]:
    shape, split, gpu = case.model.shape, case.split, case.gpu
    active = max(active_requests(case), 1)
    waves, last = _waves(case, active)
    return {
        "active": active,
        "last_wave": last,
        "waves": waves,
        "input_tokens": case.input_tokens,
        "output_tokens": case.output_tokens,
        "layers": math.ceil(shape.layers / split.pp),
        "tp": split.tp,
        "pp": split.pp,
        "hop": (case.hop_gb_s or gpu.link_gb_s) * 1e9,
        **_weights(case),
        "prompt_attention_flops": prompt_attention_flops(shape, case.input_tokens) / split.gpus,
        "reply_attention_flops": reply_attention_flops(shape, case.input_tokens + case.output_tokens / 2) / split.gpus,
        "kv_read_bytes": _kv_read_bytes(case),
        "hidden_bytes": 2 * shape.hidden,
        "bandwidth": gpu.bandwidth_gb_s * 1e9,
        "peak": gpu.peak_flops(case.weights),
        "peak16": gpu.bf16_tflops * 1e12,
        "link": gpu.link_gb_s * 1e9,
        "is_pcie": gpu.link == "pcie",
        "is_attention_dp": split.attention_dp,
        "generation": GENERATIONS.index(gpu.generation),
        "runtime": RUNTIMES.index(case.runtime),
        "format_fp8": case.weights.peak == "fp8",
        "format_fp4": case.weights.peak == "fp4",
        "format_wo": case.weights.peak == "bf16" and case.weights.bytes_per_weight < 2,
    }


def _weights(case: Case) -> dict[str, float]:
    shape, split = case.model.shape, case.split
    experts = shape.experts
    expert_bytes = shape.expert_parameters / split.tp / split.pp * case.weights.bytes_per_weight
    # The input embedding is only looked up, never read whole; the output embedding is on the last stage alone.
    matrix = 2 * shape.vocab * shape.hidden / (1 if split.attention_dp else split.tp)
    stored = matrix * (1 if shape.tied or split.pp > 1 else 2)
    linear = shape.dense_parameters + shape.active_expert_parameters
    return {
        "dense_bytes": weight_bytes(shape, case.weights, split) - expert_bytes - stored + matrix / split.pp,
        "expert_bytes": expert_bytes,
        "expert_count": experts.count if experts else 1,
        "experts_per_token": experts.per_token if experts else 1,
        "token_flops": 2 * linear / split.gpus,
        "expert_share": shape.active_expert_parameters / linear,
        "head_flops": 2 * shape.vocab * shape.hidden / split.gpus,
        "dense_width": (shape.hidden if experts else shape.ffn) / split.tp,
        "ffn_per_rank": (experts.ffn if experts else shape.ffn) / split.tp,
    }


def _kv_read_bytes(case: Case) -> float:
    shape, split = case.model.shape, case.split
    one = kv_bytes(shape, case.kv, split, case.input_tokens + case.output_tokens / 2)
    return one / (split.tp if split.attention_dp else 1)


def _waves(case: Case, active: int) -> tuple[float, float]:
    if case.concurrency is not None or case.requests is None:
        return 1, 0
    return float(case.requests // active), float(case.requests % active)
