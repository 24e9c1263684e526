"""The tensors of a TensorRT-LLM checkpoint, whole again whatever its tensor and pipeline parallelism."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slipstream.errors import SlipstreamError
from slipstream.trtllm_checkpoint.config import Architecture
from slipstream.trtllm_checkpoint.shard import Array, Shard


class Checkpoint:
    """Merged tensors by what they do; nothing is loaded before it is asked for.

    Every method returns the checkpoint's own bits.
    """

    def __init__(self, directory: Path, architecture: Architecture) -> None:
        self._architecture = architecture
        parallelism = architecture.parallelism
        ranks = [
            Shard(directory / f"rank{rank}.safetensors") for rank in range(parallelism.tp_size * parallelism.pp_size)
        ]
        tp_size = parallelism.tp_size
        self._stages = [ranks[start : start + tp_size] for start in range(0, len(ranks), tp_size)]
        self._unread = {(shard.path, name) for shard in ranks for name in shard.entries}

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

    def has_bias(self, layer: int, name: str) -> bool:
        """Whether the linear layer `name` has a bias."""
        return self._layer_tensor(layer, f"{name}.bias") in self._stages[self._stage(layer)][0].entries

    def column_parallel(self, layer: int, name: str, out_size: int) -> Array:
        """[out_size, hidden]: ranks hold output rows."""
        return self._merged(layer, name, 0, (out_size, self._architecture.hidden_size))

    def row_parallel(self, layer: int, name: str, in_size: int) -> Array:
        """[hidden, in_size]: ranks hold input columns."""
        return self._merged(layer, name, 1, (self._architecture.hidden_size, in_size))

    def qkv(self, layer: int, kind: str) -> Array:
        """The rows of q, k and v, one after the other: `kind` is weight [rows, hidden] or bias [rows]."""
        name = self._layer_tensor(layer, f"attention.qkv.{kind}")
        stage = self._stages[self._stage(layer)]
        columns = (self._architecture.hidden_size,) if kind == "weight" else ()
        q_rows, kv_rows = self._local_rows()
        shards = self._read(self._stage(layer), name)
        for shard, tensor in zip(stage, shards, strict=True):
            _require_shape(shard.path, name, tensor.shape, (q_rows + 2 * kv_rows, *columns))
        # With more ranks than KV heads each head lies on several ranks: take its first copy.
        copies = max(1, len(stage) // self._architecture.num_kv_heads)
        q = [tensor[:q_rows] for tensor in shards]
        k = [tensor[q_rows : q_rows + kv_rows] for tensor in shards[::copies]]
        v = [tensor[q_rows + kv_rows :] for tensor in shards[::copies]]
        return np.concatenate([*q, *k, *v])

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

    def _merged(self, layer: int, name: str, axis: int, shape: tuple[int, int]) -> Array:
        tensor_name = self._layer_tensor(layer, f"{name}.weight")
        shards = self._read(self._stage(layer), tensor_name)
        local = list(shape)
        local[axis] //= len(shards)
        for shard, tensor in zip(self._stages[self._stage(layer)], shards, strict=True):
            _require_shape(shard.path, tensor_name, tensor.shape, tuple(local))
        return np.concatenate(shards, axis)

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
