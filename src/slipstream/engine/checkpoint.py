"""The tensors of a TensorRT-LLM checkpoint, whole again whatever its tensor and pipeline parallelism."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np

from slipstream.engine.architecture import matches_any
from slipstream.engine.quantize_rows import quantize_rows
from slipstream.errors import SlipstreamError
from slipstream.trtllm_checkpoint.config import KV_SCALES, Architecture
from slipstream.trtllm_checkpoint.linear import (
    PARTS,
    REPLICATED,
    Linear,
    can_join,
    is_stored_quantized,
    joined,
    read_linear,
)
from slipstream.trtllm_checkpoint.shard import Array, Shard, as_float32

T = TypeVar("T")


class Checkpoint:
    """Merged tensors by what they do; nothing is loaded before it is asked for.

    Every method returns the checkpoint's own bits; linear layers of W8A16 are quantized, which the format leaves to
    who loads it. The KV cache's scales are passed over: the engine has its own.
    """

    def __init__(self, directory: Path, architecture: Architecture) -> None:
        self._architecture = architecture
        parallelism = architecture.parallelism
        ranks = [
            Shard(directory / f"rank{rank}.safetensors") for rank in range(parallelism.tp_size * parallelism.pp_size)
        ]
        tp_size = parallelism.tp_size
        self._stages = [ranks[start : start + tp_size] for start in range(0, len(ranks), tp_size)]
        self._unread = {(shard.path, name) for shard in ranks for name in shard.entries if not name.endswith(KV_SCALES)}

    def embedding(self) -> Array:
        """[vocab_size, hidden], the padding rows cut off."""
        name, axis = "transformer.vocab_embedding.weight", self._architecture.parallelism.embedding_axis
        shards = self._read(0, name)
        whole = _same_on_every_rank(shards, name, self._stages[0]) if axis is None else np.concatenate(shards, axis)
        return self._cut_vocabulary(whole, name, self._stages[0])

    def lm_head(self) -> Array | None:
        """[vocab_size, hidden], or None where the embedding is used again."""
        name, last = "lm_head.weight", len(self._stages) - 1
        if name not in self._stages[last][0].entries:
            return None
        return self._cut_vocabulary(np.concatenate(self._read(last, name), 0), name, self._stages[last])

    def final_norm(self) -> Array:
        """[hidden]"""
        return self._replicated(len(self._stages) - 1, "transformer.ln_f.weight", self._architecture.hidden_size)

    def norm(self, layer: int, name: str) -> Array:
        """A norm over the hidden size, or over one head (`attention.q_layernorm`, `attention.k_layernorm`)."""
        size = self._architecture.head_size if name.startswith("attention.") else self._architecture.hidden_size
        return self._replicated(self._stage(layer), self._layer_tensor(layer, f"{name}.weight"), size)

    def column_parallel(self, layer: int, name: str, out_size: int) -> Linear:
        """[out_size, hidden]: ranks hold output rows."""
        return self._joined(layer, name, self._linears(layer, name, (out_size, self._architecture.hidden_size), 0), 0)

    def row_parallel(self, layer: int, name: str, in_size: int) -> Linear:
        """[hidden, in_size]: ranks hold input columns."""
        return self._joined(layer, name, self._linears(layer, name, (self._architecture.hidden_size, in_size), 1), 1)

    def qkv(self, layer: int) -> Linear:
        """[rows of q, k and v one after the other, hidden]"""
        q_rows, kv_rows = self._local_rows()
        tp_size = self._architecture.parallelism.tp_size
        name = "attention.qkv"
        shape = ((q_rows + 2 * kv_rows) * tp_size, self._architecture.hidden_size)
        ranks = self._linears(layer, name, shape, 0)
        starts = (0, q_rows, q_rows + kv_rows, q_rows + 2 * kv_rows)
        parts = [
            part.rows(start, stop) for start, stop in pairwise(starts) for part in self._first_copies(ranks, start > 0)
        ]
        return self._joined(layer, name, parts, 0)

    def qkv_bias(self, layer: int) -> Array | None:
        """[rows of q, k and v], or None where there is no bias."""
        name = self._layer_tensor(layer, "attention.qkv.bias")
        if name not in self._stages[self._stage(layer)][0].entries:
            return None
        q_rows, kv_rows = self._local_rows()
        ranks = self._read(self._stage(layer), name)
        for shard, tensor in zip(self._stages[self._stage(layer)], ranks, strict=True):
            _require_shape(shard.path, name, tensor.shape, (q_rows + 2 * kv_rows,))
        starts = (0, q_rows, q_rows + kv_rows, q_rows + 2 * kv_rows)
        parts = [part[start:stop] for start, stop in pairwise(starts) for part in self._first_copies(ranks, start > 0)]
        bias: Array = np.concatenate(parts)
        return bias

    def require_all_read(self) -> None:
        """Refuse a checkpoint with tensors that no part of the graph asked for."""
        if self._unread:
            path, name = min(self._unread)
            raise SlipstreamError(
                f"{path}: {len(self._unread)} tensors have no place in {self._architecture.name}, the first is {name}",
                mend="use the target tensorrt_llm for this model, or quantize it again",
            )

    def _stage(self, layer: int) -> int:
        return layer // (self._architecture.num_layers // len(self._stages))

    def _layer_tensor(self, layer: int, name: str) -> str:
        local_layer = layer % (self._architecture.num_layers // len(self._stages))  # numbers restart on every stage
        return f"transformer.layers.{local_layer}.{name}"

    def _local_rows(self) -> tuple[int, int]:
        architecture = self._architecture
        tp_size = architecture.parallelism.tp_size
        kv_heads = max(1, architecture.num_kv_heads // tp_size)
        return architecture.num_heads // tp_size * architecture.head_size, kv_heads * architecture.head_size

    def _read(self, stage: int, name: str) -> list[Array]:
        tensors = [shard.tensor(name) for shard in self._stages[stage]]
        self._unread -= {(shard.path, name) for shard in self._stages[stage]}
        return tensors

    def _first_copies(self, ranks: Sequence[T], of_kv_heads: bool) -> Sequence[T]:
        """With more ranks than KV heads each KV head lies on several ranks; one of them is enough."""
        copies = max(1, len(ranks) // self._architecture.num_kv_heads) if of_kv_heads else 1
        return ranks[::copies]

    def _linears(self, layer: int, name: str, shape: tuple[int, int], axis: int) -> list[Linear]:
        """Every rank's part of a layer of `shape` cut along `axis`."""
        full_name, stage = self._layer_tensor(layer, name), self._stages[self._stage(layer)]
        out_size, in_size = (size // len(stage) if dim == axis else size for dim, size in enumerate(shape))
        self._require_as_configured(full_name, stage)
        quantization = self._architecture.quantization
        ranks = [read_linear(shard, full_name, quantization, out_size, in_size) for shard in stage]
        for part in PARTS:
            self._unread -= {(shard.path, f"{full_name}.{part}") for shard in stage}
        for part in REPLICATED:
            if f"{full_name}.{part}" in stage[0].entries:
                tensors = [shard.tensor(f"{full_name}.{part}") for shard in stage]
                _same_on_every_rank(tensors, f"{full_name}.{part}", stage)
        return ranks

    def _require_as_configured(self, name: str, stage: Sequence[Shard]) -> None:
        """Float weights where config.json says so, and nowhere else: TensorRT-LLM goes by config.json alone."""
        quantization = self._architecture.quantization
        if quantization.algo in (None, "W8A16"):
            return
        is_excluded = matches_any(name, quantization.exclude_modules)
        for shard in stage:
            if is_stored_quantized(shard, name) == is_excluded:
                stored, said = ("quantized", "names") if is_excluded else ("in floats", "does not name")
                raise SlipstreamError(
                    f"{shard.path}: {name} is stored {stored}, but quantization.exclude_modules {said} it",
                    mend="quantize the model again",
                )

    def _joined(self, layer: int, name: str, parts: Sequence[Linear], axis: int) -> Linear:
        if not can_join(parts, axis):
            path = self._stages[self._stage(layer)][0].path
            raise SlipstreamError(
                f"{path.parent}: the scales of {self._layer_tensor(layer, name)} differ between ranks",
                mend="delete the checkpoint and quantize the model again",
            )
        return self._quantized_as_configured(self._layer_tensor(layer, name), joined(parts, axis))

    def _quantized_as_configured(self, name: str, linear: Linear) -> Linear:
        """W8A16 checkpoints hold floats, which are quantized when they are loaded."""
        quantization = self._architecture.quantization
        if quantization.algo != "W8A16" or matches_any(name, quantization.exclude_modules):
            return linear
        rows = quantize_rows(as_float32(linear.values))
        return Linear(values=rows.values, scales=rows.row_scales)

    def _replicated(self, stage: int, name: str, size: int) -> Array:
        whole = _same_on_every_rank(self._read(stage, name), name, self._stages[stage])
        _require_shape(self._stages[stage][0].path, name, whole.shape, (size,))
        return whole

    def _cut_vocabulary(self, whole: Array, name: str, shards: Sequence[Shard]) -> Array:
        vocab_size, hidden_size = self._architecture.vocab_size, self._architecture.hidden_size
        if whole.ndim != 2 or whole.shape[0] < vocab_size or whole.shape[1] != hidden_size:
            _require_shape(shards[0].path, f"{name} of all ranks", whole.shape, (vocab_size, hidden_size))
        return whole[:vocab_size]


def _same_on_every_rank(tensors: Sequence[Array], name: str, shards: Sequence[Shard]) -> Array:
    for shard, tensor in zip(shards, tensors, strict=True):
        if not np.array_equal(tensor, tensors[0]):
            raise SlipstreamError(
                f"{shard.path}: {name} differs from the one in {shards[0].path.name}, ranks must hold the same",
                mend="delete the checkpoint and quantize the model again",
            )
    return tensors[0]


def _require_shape(path: Path, name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise SlipstreamError(
            f"{path}: {name} has shape {list(found)}, config.json asks for {list(wanted)}",
            mend="delete the checkpoint and quantize the model again",
        )
