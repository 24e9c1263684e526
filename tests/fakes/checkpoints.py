"""Tiny TensorRT-LLM checkpoints with random weights, cut into ranks as ModelOpt cuts them.

ModelOpt's own export is too slow for unit tests and drops Qwen3's query and key norms.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyModel:
    """A decoder small enough to be run thousands of times."""

    architecture: str = "LlamaForCausalLM"
    dtype: str = "float16"
    vocab_size: int = 101
    hidden_size: int = 64
    intermediate_size: int = 96
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 2
    head_size: int = 32
    rotary_base: float = 10000.0
    rotary_scaling: Mapping[str, object] | None = None
    has_qkv_bias: bool = False
    has_qk_norm: bool = False
    has_own_lm_head: bool = True
    max_position_embeddings: int = 512
    norm_epsilon: float = 1e-5


def hugging_face_weights(model: TinyModel, seed: int = 0) -> dict[str, Array]:
    """Random weights by their Hugging Face names, float32 values that the model's dtype holds exactly."""
    draw = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> Array:
        return _rounded(model.dtype, draw.standard_normal((rows, columns)) * 1.5 / columns**0.5)

    def vector(size: int, centre: float) -> Array:
        return _rounded(model.dtype, centre + 0.3 * draw.standard_normal(size))

    hidden, head = model.hidden_size, model.head_size
    rows = {"q": model.num_heads * head, "k": model.num_kv_heads * head, "v": model.num_kv_heads * head}
    weights = {"model.embed_tokens.weight": matrix(model.vocab_size, hidden), "model.norm.weight": vector(hidden, 1)}
    weights["lm_head.weight"] = (
        matrix(model.vocab_size, hidden) if model.has_own_lm_head else weights["model.embed_tokens.weight"]
    )
    for layer in range(model.num_layers):
        prefix = f"model.layers.{layer}"
        for name, count in rows.items():
            weights[f"{prefix}.self_attn.{name}_proj.weight"] = matrix(count, hidden)
            if model.has_qkv_bias:
                weights[f"{prefix}.self_attn.{name}_proj.bias"] = vector(count, 0)
        weights[f"{prefix}.self_attn.o_proj.weight"] = matrix(hidden, rows["q"])
        for name in ("gate_proj", "up_proj"):
            weights[f"{prefix}.mlp.{name}.weight"] = matrix(model.intermediate_size, hidden)
        weights[f"{prefix}.mlp.down_proj.weight"] = matrix(hidden, model.intermediate_size)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}.{name}.weight"] = vector(hidden, 1)
        for name in ("q_norm", "k_norm") if model.has_qk_norm else ():
            weights[f"{prefix}.self_attn.{name}.weight"] = vector(head, 1)
    return weights


def write_checkpoint(
    directory: Path, model: TinyModel, *, tp_size: int = 1, pp_size: int = 1, quant_algo: str | None = None
) -> Path:
    """Write config.json and the rank files; the directory again."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = hugging_face_weights(model)
    for rank in range(tp_size * pp_size):
        tensors = _rank_tensors(
            model, weights, tp_rank=rank % tp_size, tp_size=tp_size, pp_rank=rank // tp_size, pp_size=pp_size
        )
        write_safetensors(directory / f"rank{rank}.safetensors", tensors, model.dtype)
    write_config(directory, checkpoint_config(model, tp_size=tp_size, pp_size=pp_size, quant_algo=quant_algo))
    return directory


def write_config(directory: Path, config: Mapping[str, object]) -> None:
    (directory / "config.json").write_text(json.dumps(config))


def checkpoint_config(
    model: TinyModel, *, tp_size: int = 1, pp_size: int = 1, quant_algo: str | None = None
) -> dict[str, Any]:
    """config.json as ModelOpt writes it."""
    config: dict[str, Any] = {
        "architecture": model.architecture,
        "dtype": model.dtype,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads,
        "head_size": model.head_size,
        "norm_epsilon": model.norm_epsilon,
        "max_position_embeddings": model.max_position_embeddings,
        "hidden_act": "silu",
        "position_embedding_type": "rope_gpt_neox",
        "rotary_base": model.rotary_base,
        "use_parallel_embedding": True,
        "embedding_sharding_dim": 0,
        "share_embedding_table": False,
        "mapping": {"world_size": tp_size * pp_size, "tp_size": tp_size, "pp_size": pp_size},
        "quantization": {"quant_algo": quant_algo, "kv_cache_quant_algo": None},
    }
    return config if model.rotary_scaling is None else {**config, "rotary_scaling": dict(model.rotary_scaling)}


def write_safetensors(path: Path, tensors: Mapping[str, Array], dtype: str) -> None:
    """A safetensors file with every float32 array stored as `dtype`."""
    header: dict[str, object] = {}
    blobs: list[bytes] = []
    offset = 0
    for name, values in tensors.items():
        blob = _encode(values, dtype)
        header[name] = {"dtype": DTYPES[dtype], "shape": values.shape, "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def _rank_tensors(
    model: TinyModel, weights: Mapping[str, Array], *, tp_rank: int, tp_size: int, pp_rank: int, pp_size: int
) -> dict[str, Array]:
    tensors: dict[str, Array] = {}
    if pp_rank == 0:
        tensors["transformer.vocab_embedding.weight"] = _vocabulary(
            weights["model.embed_tokens.weight"], tp_rank, tp_size
        )
    layers = model.num_layers // pp_size
    for local in range(layers):
        source = f"model.layers.{pp_rank * layers + local}"
        target = f"transformer.layers.{local}"
        for name, values in _layer(model, weights, source, tp_rank, tp_size).items():
            tensors[f"{target}.{name}"] = values
    if pp_rank == pp_size - 1:
        tensors["transformer.ln_f.weight"] = weights["model.norm.weight"]
        tensors["lm_head.weight"] = _vocabulary(weights["lm_head.weight"], tp_rank, tp_size)
    return tensors


def _layer(model: TinyModel, weights: Mapping[str, Array], source: str, tp_rank: int, tp_size: int) -> dict[str, Array]:
    def rows(name: str) -> Array:
        return np.split(weights[f"{source}.{name}.weight"], tp_size, 0)[tp_rank]

    def columns(name: str) -> Array:
        return np.split(weights[f"{source}.{name}.weight"], tp_size, 1)[tp_rank]

    def qkv(kind: str) -> Array:
        parts = []
        for name, heads in (("q", model.num_heads), ("k", model.num_kv_heads), ("v", model.num_kv_heads)):
            by_head = np.split(weights[f"{source}.self_attn.{name}_proj.{kind}"], heads, 0)
            copies = max(1, tp_size // heads)  # more ranks than heads: each head on several ranks
            share = max(1, heads // tp_size)
            first = tp_rank // copies * share
            parts += by_head[first : first + share]
        return np.concatenate(parts)

    layer = {
        "input_layernorm.weight": weights[f"{source}.input_layernorm.weight"],
        "post_layernorm.weight": weights[f"{source}.post_attention_layernorm.weight"],
        "attention.qkv.weight": qkv("weight"),
        "attention.dense.weight": columns("self_attn.o_proj"),
        "mlp.fc.weight": rows("mlp.gate_proj"),
        "mlp.gate.weight": rows("mlp.up_proj"),
        "mlp.proj.weight": columns("mlp.down_proj"),
    }
    if model.has_qkv_bias:
        layer["attention.qkv.bias"] = qkv("bias")
    if model.has_qk_norm:
        layer["attention.q_layernorm.weight"] = weights[f"{source}.self_attn.q_norm.weight"]
        layer["attention.k_layernorm.weight"] = weights[f"{source}.self_attn.k_norm.weight"]
    return layer


def _vocabulary(values: Array, tp_rank: int, tp_size: int) -> Array:
    padding = -len(values) % tp_size
    padded = np.concatenate([values, np.full((padding, values.shape[1]), 7, values.dtype)])
    return np.split(padded, tp_size, 0)[tp_rank]


def _rounded(dtype: str, values: Array) -> Array:
    if dtype == "bfloat16":
        return (values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return values.astype(dtype).astype(np.float32)


def _encode(values: Array, dtype: str) -> bytes:
    if dtype == "bfloat16":
        return (np.ascontiguousarray(values).view(np.uint32) >> np.uint32(16)).astype(np.uint16).tobytes()
    return np.ascontiguousarray(values).astype(dtype).tobytes()
