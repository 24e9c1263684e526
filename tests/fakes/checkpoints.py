"""Tiny TensorRT-LLM checkpoints with random weights, cut into ranks as ModelOpt cuts them.

ModelOpt's own export is too slow for unit tests and drops Qwen3's query and key norms.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tests.fakes.quantized_weights import QuantizedWeight, quantize

Array = npt.NDArray[Any]
DTYPES = {
    np.dtype(np.float16): "F16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(np.float32): "F32",
    np.dtype(np.int8): "I8",
    np.dtype(np.uint8): "U8",
    np.dtype(ml_dtypes.float8_e4m3fn): "F8_E4M3",
}
HUGGING_FACE_LINEARS = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.dense": ("self_attn.o_proj",),
    "mlp.fc": ("mlp.gate_proj",),
    "mlp.gate": ("mlp.up_proj",),
    "mlp.proj": ("mlp.down_proj",),
}
KV_SCALES = ("k_cache_scaling_factor", "v_cache_scaling_factor", "kv_cache_scaling_factor")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """How a checkpoint is stored."""

    quant_algo: str | None = None
    group_size: int = 32
    exclude_modules: tuple[str, ...] = ("lm_head",)
    kv_cache_quant_algo: str | None = None
    shares_input_scales: bool = True  # of the two branches of the MLP; AWQ's do not
    tp_size: int = 1
    pp_size: int = 1

    @property
    def is_quantized(self) -> bool:
        return self.quant_algo not in (None, "W8A16")

    def excludes(self, module: str) -> bool:
        return any(fnmatchcase(module, pattern) for pattern in self.exclude_modules)


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


def quantized_linears(model: TinyModel, stored: Stored, seed: int = 0) -> dict[str, QuantizedWeight]:
    """Whole quantized linear layers by their names with numbers that run through all pipeline stages."""
    weights, draw = hugging_face_weights(model, seed), np.random.default_rng(seed + 1)
    linears = {}
    for layer in range(model.num_layers):
        inputs = {"attention.qkv": model.hidden_size, "attention.dense": model.num_heads * model.head_size}
        inputs |= {"mlp.fc": model.hidden_size, "mlp.gate": model.hidden_size, "mlp.proj": model.intermediate_size}
        scales = {name: draw.uniform(0.5, 2, size).astype(model.dtype) for name, size in inputs.items()}
        if stored.shares_input_scales:
            scales["mlp.gate"] = scales["mlp.fc"]
        local_layer = layer % (model.num_layers // stored.pp_size)
        for name, parts in HUGGING_FACE_LINEARS.items():
            if stored.is_quantized and not stored.excludes(f"transformer.layers.{local_layer}.{name}"):
                whole = np.concatenate([weights[f"model.layers.{layer}.{part}.weight"] for part in parts])
                linears[f"{layer}.{name}"] = quantize(whole, str(stored.quant_algo), stored.group_size, scales[name])
    return linears


def dequantized_weights(model: TinyModel, stored: Stored) -> dict[str, Array]:
    """`hugging_face_weights` with what the quantized linear layers compute with, their input scales folded in."""
    weights = hugging_face_weights(model)
    for name, linear in quantized_linears(model, stored).items():
        layer, linear_name = name.split(".", 1)
        sizes = [len(weights[f"model.layers.{layer}.{part}.weight"]) for part in HUGGING_FACE_LINEARS[linear_name]]
        whole = linear.weight()
        if linear.input_scales is not None:
            whole = whole * linear.input_scales.astype(np.float32)
        rows = np.split(whole, np.cumsum(sizes)[:-1])
        for part, weight in zip(HUGGING_FACE_LINEARS[linear_name], rows, strict=True):
            weights[f"model.layers.{layer}.{part}.weight"] = weight
    return weights


def write_checkpoint(directory: Path, model: TinyModel, stored: Stored | None = None, **changes: Any) -> Path:
    """Write config.json and the rank files; the directory again. `changes` are those of `Stored`."""
    stored = replace(stored or Stored(), **changes)
    directory.mkdir(parents=True, exist_ok=True)
    weights, linears = hugging_face_weights(model), quantized_linears(model, stored)
    for rank in range(stored.tp_size * stored.pp_size):
        tensors = _rank_tensors(model, stored, weights, linears, rank)
        write_safetensors(directory / f"rank{rank}.safetensors", tensors)
    write_config(directory, checkpoint_config(model, stored))
    return directory


def write_config(directory: Path, config: Mapping[str, object]) -> None:
    (directory / "config.json").write_text(json.dumps(config))


def checkpoint_config(model: TinyModel, stored: Stored | None = None, **changes: Any) -> dict[str, Any]:
    """config.json as ModelOpt writes it. `changes` are those of `Stored`."""
    stored = replace(stored or Stored(), **changes)
    quantization: dict[str, object] = {
        "quant_algo": stored.quant_algo,
        "kv_cache_quant_algo": stored.kv_cache_quant_algo,
    }
    if stored.is_quantized:
        quantization |= {"exclude_modules": list(stored.exclude_modules), "group_size": stored.group_size}
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
        "mapping": {
            "world_size": stored.tp_size * stored.pp_size,
            "tp_size": stored.tp_size,
            "pp_size": stored.pp_size,
        },
        "quantization": quantization,
    }
    return config if model.rotary_scaling is None else {**config, "rotary_scaling": dict(model.rotary_scaling)}


def write_safetensors(path: Path, tensors: Mapping[str, Array]) -> None:
    """A safetensors file of arrays in their own types."""
    header: dict[str, object] = {}
    blobs: list[bytes] = []
    offset = 0
    for name, values in tensors.items():
        blob = np.ascontiguousarray(values).tobytes()
        header[name] = {
            "dtype": DTYPES[values.dtype],
            "shape": values.shape,
            "data_offsets": [offset, offset + len(blob)],
        }
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def _rank_tensors(
    model: TinyModel, stored: Stored, weights: Mapping[str, Array], linears: Mapping[str, QuantizedWeight], rank: int
) -> dict[str, Array]:
    pp_rank, tp_rank = divmod(rank, stored.tp_size)
    floats: dict[str, Array] = {}
    quantized: dict[str, Array] = {}
    if pp_rank == 0:
        floats["transformer.vocab_embedding.weight"] = _vocabulary(
            weights["model.embed_tokens.weight"], tp_rank, stored.tp_size
        )
    layers = model.num_layers // stored.pp_size
    for local in range(layers):
        layer = pp_rank * layers + local
        for name, values in _float_layer(model, weights, f"model.layers.{layer}", tp_rank, stored.tp_size).items():
            floats[f"transformer.layers.{local}.{name}"] = values
        for name in HUGGING_FACE_LINEARS:
            if f"{layer}.{name}" in linears:
                prefix = f"transformer.layers.{local}.{name}"
                del floats[f"{prefix}.weight"]
                part = _rank_linear(model, name, linears[f"{layer}.{name}"], tp_rank, stored.tp_size)
                quantized |= {f"{prefix}.{key}": values for key, values in part.tensors().items()}
        if stored.kv_cache_quant_algo is not None:
            scale = np.array([1.5], np.float32)
            quantized |= {f"transformer.layers.{local}.attention.{kind}": scale for kind in KV_SCALES}
    if pp_rank == stored.pp_size - 1:
        floats["transformer.ln_f.weight"] = weights["model.norm.weight"]
        floats["lm_head.weight"] = _vocabulary(weights["lm_head.weight"], tp_rank, stored.tp_size)
    return {name: values.astype(model.dtype) for name, values in floats.items()} | quantized


def _rank_linear(model: TinyModel, name: str, whole: QuantizedWeight, tp_rank: int, tp_size: int) -> QuantizedWeight:
    if name in ("attention.dense", "mlp.proj"):
        return whole.columns(tp_rank, tp_size)
    if name == "attention.qkv":
        return whole.rows(_qkv_rows(model, tp_rank, tp_size))
    return whole.rows(np.split(np.arange(len(whole.values)), tp_size)[tp_rank])


def _qkv_rows(model: TinyModel, tp_rank: int, tp_size: int) -> Array:
    """The rows of one rank's heads among those of q, k and v, one after the other."""
    rows, first_row = [], 0
    for heads in (model.num_heads, model.num_kv_heads, model.num_kv_heads):
        by_head = first_row + np.arange(heads * model.head_size).reshape(heads, -1)
        first_row += heads * model.head_size
        copies = max(1, tp_size // heads)  # more ranks than heads: each head on several ranks
        share = max(1, heads // tp_size)
        first = tp_rank // copies * share
        rows.append(by_head[first : first + share].ravel())
    return np.concatenate(rows)


def _float_layer(
    model: TinyModel, weights: Mapping[str, Array], source: str, tp_rank: int, tp_size: int
) -> dict[str, Array]:
    def rows(name: str) -> Array:
        return np.split(weights[f"{source}.{name}.weight"], tp_size, 0)[tp_rank]

    def columns(name: str) -> Array:
        return np.split(weights[f"{source}.{name}.weight"], tp_size, 1)[tp_rank]

    def qkv(kind: str) -> Array:
        whole = np.concatenate([weights[f"{source}.{part}.{kind}"] for part in HUGGING_FACE_LINEARS["attention.qkv"]])
        return whole[_qkv_rows(model, tp_rank, tp_size)]

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
    return values.astype(dtype).astype(np.float32)
