"""How many bytes a model takes on each GPU: weights, KV cache, activations, and what the runtime keeps for itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slipstream.plan.catalogue import Gpu
from slipstream.plan.formats import KvFormat, WeightFormat
from slipstream.plan.shape import ModelShape

# Embeddings, lm_head, router and MLA's KV projections stay in 16 bits in every ModelOpt recipe.
_UNQUANTIZED_BYTES = 2
# Live 16-bit tensors of `hidden` width at the widest point of a layer: residual, its normalized copy, the output.
_HIDDEN_TENSORS = 3
# CUDA context with loaded kernels, and NCCL's buffers at 2 and at 4 or more ranks: aiconfigurator@095f58a51
# systems/*.yaml (`nccl_mem`, and the 551 MB that its `other_mem` held before a safety margin was added).
_CONTEXT_BYTES = 551 * 2**20
_NCCL_BYTES = {1: 0, 2: 342 * 2**20}
_NCCL_BYTES_MORE = 392 * 2**20
# Paged KV comes in blocks of this many tokens: TensorRT-LLM's default `tokens_per_block`.
BLOCK_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """How one replica is spread over GPUs."""

    tp: int = 1
    pp: int = 1
    ep: int = 1  # of the tp ranks, how many share out the experts instead of slicing each
    attention_dp: bool = False  # attention is replicated, each rank keeps the KV cache of its own requests

    @property
    def gpus(self) -> int:
        return self.tp * self.pp


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The sizes that an engine is built for."""

    max_batch_size: int
    max_num_tokens: int
    max_seq_len: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemory:
    """Bytes of the fullest GPU of a replica."""

    capacity_bytes: int
    weight_bytes: int
    draft_bytes: int
    activation_bytes: int
    runtime_bytes: int
    kv_fraction: float  # of what is free, given to the KV cache
    kv_bytes_per_token: float  # while no window is full; 0 < x

    @property
    def free_bytes(self) -> int:
        """Before the KV cache; negative when the rest does not fit."""
        used = self.weight_bytes + self.draft_bytes + self.activation_bytes + self.runtime_bytes
        return self.capacity_bytes - used

    @property
    def kv_cache_bytes(self) -> int:
        return max(0, int(self.free_bytes * self.kv_fraction))


def weight_bytes(shape: ModelShape, weights: WeightFormat, split: Parallelism) -> int:
    """Weights of one rank: the pipeline stage with the most layers, its share of every matrix."""
    stage = math.ceil(shape.layers / split.pp) / shape.layers
    only_experts = weights.name == "mxfp4"  # GPT-OSS: attention and router stay in 16 bits
    per_weight = _UNQUANTIZED_BYTES if only_experts else weights.bytes_per_weight
    dense_tp = 1 if split.attention_dp else split.tp
    dense = shape.dense_parameters * stage / dense_tp * per_weight
    experts = shape.expert_parameters * stage / split.tp * weights.bytes_per_weight
    # A tied matrix is stored twice as soon as input and output embedding sit on different pipeline stages.
    matrix = shape.vocab * shape.hidden / dense_tp * _UNQUANTIZED_BYTES
    embeddings = matrix if shape.tied or split.pp > 1 else 2 * matrix
    return int(dense + experts + embeddings)


def kv_bytes_per_token(shape: ModelShape, kv: KvFormat, split: Parallelism) -> float:
    """What one token adds to the KV cache of one rank, over the layers of its pipeline stage."""
    return _kv_layer_bytes(shape, kv, split) * math.ceil(shape.layers / split.pp)


def kv_bytes(shape: ModelShape, kv: KvFormat, split: Parallelism, tokens: float) -> float:
    """The KV cache of one request of `tokens` tokens on one rank: whole blocks, windows that forget."""
    layer = _kv_layer_bytes(shape, kv, split)
    stage = math.ceil(shape.layers / split.pp) / shape.layers
    blocks = BLOCK_TOKENS * math.ceil(tokens / BLOCK_TOKENS)
    seen = min(blocks, shape.window.tokens + BLOCK_TOKENS) if shape.window else blocks
    full_layers = shape.layers - shape.windowed_layers
    return layer * stage * (full_layers * blocks + shape.windowed_layers * seen)


def activation_bytes(shape: ModelShape, split: Parallelism, limits: Limits) -> int:
    """Scratch of one iteration: the widest point of a layer for `max_num_tokens`, and logits in 32 bits."""
    tp = 1 if split.attention_dp else split.tp
    experts = shape.experts
    wide = 2 * shape.ffn / split.tp
    if experts is not None:
        wide = max(wide if experts.layers < shape.layers else 0, 2 * experts.per_token * experts.ffn / split.tp)
    attention = (shape.heads + 2 * shape.kv_heads) * shape.head_dim / tp
    layer = limits.max_num_tokens * (_HIDDEN_TENSORS * shape.hidden + max(wide, attention)) * 2
    return int(layer + limits.max_batch_size * shape.vocab * 4)


def gpu_memory(
    shape: ModelShape,
    gpu: Gpu,
    *,
    weights: WeightFormat,
    kv: KvFormat,
    split: Parallelism,
    limits: Limits,
    kv_fraction: float = 0.9,
    draft_bytes: int = 0,
) -> GpuMemory:
    """The memory table of one GPU of a replica."""
    return GpuMemory(
        capacity_bytes=gpu.memory_bytes,
        weight_bytes=weight_bytes(shape, weights, split),
        draft_bytes=draft_bytes,
        activation_bytes=activation_bytes(shape, split, limits),
        runtime_bytes=_CONTEXT_BYTES + _NCCL_BYTES.get(split.gpus, _NCCL_BYTES_MORE),
        kv_fraction=kv_fraction,
        kv_bytes_per_token=kv_bytes_per_token(shape, kv, split),
    )


def requests_in_kv(shape: ModelShape, memory: GpuMemory, kv: KvFormat, split: Parallelism, tokens: float) -> int:
    """How many requests of `tokens` tokens the KV cache of a replica holds at once."""
    held = memory.kv_cache_bytes / kv_bytes(shape, kv, split, tokens)
    return int(held * (split.tp if split.attention_dp else 1))


def _kv_layer_bytes(shape: ModelShape, kv: KvFormat, split: Parallelism) -> float:
    whole = shape.kv_elements_per_layer * kv.bytes_per_element
    if shape.latent is not None or split.attention_dp:
        return whole  # the latent vector belongs to all heads, so every rank keeps it
    return whole / min(split.tp, shape.kv_heads)  # beyond one head a rank, heads are repeated
