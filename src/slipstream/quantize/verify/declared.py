"""What config.json declares of tensors, against the tensors that are stored.

TensorRT-LLM builds its network from config.json alone: a tensor that it does not declare is dropped with a warning, one
that it declares has to be there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from slipstream.quantize.verify.findings import Finding, error
from slipstream.trtllm_checkpoint.config import QWEN_TYPES, Architecture
from slipstream.trtllm_checkpoint.ranks import is_excluded, linears_of_layer, rank_of
from slipstream.trtllm_checkpoint.shard import Shard

_STORED_AS = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
_AWQ = ("W4A16_AWQ", "W4A8_AWQ")
_QUANTIZE = "quantize the model again"


def check_declared(architecture: Architecture, shards: Sequence[Shard]) -> Iterator[Finding]:
    """Biases, the Qwen generation, lm_head's format, AWQ's prequant scales and the type of floats."""
    yield from _qwen_type(architecture)
    for index, shard in enumerate(shards):
        yield from _biases(architecture, index, shard)
        yield from _lm_head(architecture, shard)
        yield from _prequant_scales(architecture, shard)
        yield from _float_type(architecture, shard)


def _qwen_type(architecture: Architecture) -> Iterator[Finding]:
    wanted = QWEN_TYPES.get(architecture.name)
    if wanted is not None and architecture.qwen_type != wanted:
        found = "missing" if architecture.qwen_type is None else repr(architecture.qwen_type)
        yield error(
            "config",
            "config.json qwen_type",
            f"is {found}, TensorRT-LLM's {architecture.name} is built from {wanted!r}",
            f"set qwen_type to {wanted}, or {_QUANTIZE}",
        )


def _biases(architecture: Architecture, index: int, shard: Shard) -> Iterator[Finding]:
    """In Qwen the attention's output has none."""
    keys = {"attn_bias": architecture.has_attention_bias, "mlp_bias": architecture.has_mlp_bias}
    attention = ("qkv",) if architecture.is_qwen else ("qkv", "dense")
    for key, parts in (("attn_bias", attention), ("mlp_bias", ("fc", "gate", "proj"))):
        names = list(_bias_names(architecture, index, parts))
        stored = [name for name in names if name in shard.entries]
        missing = [name for name in names if name not in shard.entries]
        if stored and not keys[key]:
            what = f"{len(stored)} biases are stored, first {stored[0]}: TensorRT-LLM would drop them"
            mend = f"set {key} to true, or {_QUANTIZE}"
            yield error("bias", f"config.json {key}", f"is false, but in {shard.path.name} {what}", mend)
        elif keys[key] and missing:
            what = f"{len(missing)} biases are not stored, first {missing[0]}: TensorRT-LLM would not load it"
            mend = f"{_QUANTIZE}, or set {key} to false where the model has none"
            yield error("bias", f"config.json {key}", f"is true, but in {shard.path.name} {what}", mend)


def _bias_names(architecture: Architecture, index: int, parts: Sequence[str]) -> Iterator[str]:
    rank = rank_of(architecture, index)
    for layer in range(rank.num_layers):
        for linear in linears_of_layer(architecture, rank, layer):
            if linear.experts is None and linear.name.rpartition(".")[2] in parts:
                yield f"{linear.name}.bias"


def _lm_head(architecture: Architecture, shard: Shard) -> Iterator[Finding]:
    quantization = architecture.quantization
    entry = shard.entries.get("lm_head.weight")
    if entry is not None and quantization.algo is not None and not is_excluded(quantization, "lm_head"):
        yield error(
            "exclude-modules",
            f"{shard.path.name} lm_head.weight",
            f"is stored in floats ({entry.dtype}), but config.json's exclude_modules has no pattern for lm_head:"
            f" TensorRT-LLM would take it for {quantization.algo}",
            f"add lm_head to exclude_modules, or {_QUANTIZE}",
        )


def _prequant_scales(architecture: Architecture, shard: Shard) -> Iterator[Finding]:
    quantization = architecture.quantization
    stored = [name for name in shard.entries if name.endswith(".prequant_scaling_factor")]
    if quantization.algo in _AWQ and stored and not quantization.has_prequant_scales:
        yield error(
            "wrong-prequant-scale",
            "config.json quantization.pre_quant_scale",
            f"is false, but in {shard.path.name} {len(stored)} layers store prequant_scaling_factor: TensorRT-LLM would"
            " drop it and multiply scaled weights with activations that are not",
            f"set pre_quant_scale to true, or {_QUANTIZE}",
        )


def _float_type(architecture: Architecture, shard: Shard) -> Iterator[Finding]:
    """One finding for a whole file: the type is seldom wrong in one tensor alone."""
    wanted = _STORED_AS[architecture.dtype]
    others = {
        name: entry.dtype
        for name, entry in shard.entries.items()
        if entry.dtype in _STORED_AS.values() and entry.dtype != wanted and not _has_own_type(name)
    }
    if others:
        name, dtype = next(iter(sorted(others.items())))
        yield error(
            "wrong-dtype",
            f"{shard.path.name} {name}",
            f"is {dtype}, config.json's dtype is {architecture.dtype} ({len(others)} tensors of the file differ from"
            " it): TensorRT-LLM would build a network of mixed types",
            f"set dtype to what is stored where all ranks agree, or {_QUANTIZE}",
        )


def _has_own_type(name: str) -> bool:
    """Scales and the router are float32 whatever the model's type is; prequant scales follow it."""
    is_scale = "scaling_factor" in name and not name.endswith(".prequant_scaling_factor")
    return is_scale or name.endswith(".router.weight")
