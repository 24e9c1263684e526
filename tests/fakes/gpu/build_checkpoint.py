"""Reads a TensorRT-LLM checkpoint as strictly as the builder's loader: config.json and the header of every rank.

Facts: tests/contract/trtllm-1.2.1/checkpoint_format.json. Messages are shaped like those of
tensorrt_llm/models/modeling_utils.py.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from gpu.machine import contract

_INTEGERS = {"hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size"}
_INTEGERS |= {"vocab_size", "max_position_embeddings", "head_size"}
_SIZES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "F8_E4M3": 1, "I32": 4, "I64": 8}
# The families whose tensors `llama_tensors` names; others are checked for their files only.
_LLAMA_LIKE = {"LlamaForCausalLM", "MistralForCausalLM"}
_LINEARS = ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj")
_WEIGHT_TYPES = {"FP8": "F8_E4M3", "W8A8_SQ_PER_CHANNEL": "I8", "FP8_PER_CHANNEL_PER_TOKEN": "F8_E4M3"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """One tensor of a safetensors file."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """config.json with its defaults filled in."""

    config: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        return str(self.config["architecture"])

    @property
    def quant_algo(self) -> str | None:
        algo: str | None = self.config["quantization"]["quant_algo"]
        return None if algo == "NO_QUANT" else algo

    @property
    def kv_cache_quant_algo(self) -> str | None:
        algo: str | None = self.config["quantization"]["kv_cache_quant_algo"]
        return algo

    @property
    def tp_size(self) -> int:
        return int(self.config["mapping"]["tp_size"])

    @property
    def pp_size(self) -> int:
        return int(self.config["mapping"]["pp_size"])

    @property
    def world_size(self) -> int:
        return int(self.config["mapping"]["world_size"])


def read_checkpoint(directory: Path, warn: Callable[[str], None]) -> Checkpoint:
    """The checkpoint's configuration, every rank's file checked against it."""
    with (directory / "config.json").open() as stream:
        config = json.load(stream)
    checkpoint = Checkpoint(config=_complete(config, warn))
    for rank in range(checkpoint.world_size):
        path = directory / f"rank{rank}.safetensors"
        if not path.is_file():
            raise FileNotFoundError(f"No such file or directory: {path}")
        tensors = read_headers(path)
        if checkpoint.architecture in _LLAMA_LIKE:
            _check_tensors(checkpoint, rank, tensors, warn)
    return checkpoint


def read_headers(path: Path) -> dict[str, Header]:
    """What a safetensors file holds; ValueError where its header and its length disagree."""
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        raw = json.loads(stream.read(length))
    raw.pop("__metadata__", None)
    end = 0
    for name, entry in raw.items():
        count = _SIZES[entry["dtype"]]
        for dimension in entry["shape"]:
            count *= dimension
        begin, stop = entry["data_offsets"]
        if stop - begin != count:
            raise ValueError(f"{path}: {name} has {stop - begin} bytes, its shape needs {count}")
        end = max(end, stop)
    if path.stat().st_size != 8 + length + end:
        raise ValueError(f"{path}: incomplete metadata, file not fully covered")
    return {name: Header(dtype=entry["dtype"], shape=tuple(entry["shape"])) for name, entry in raw.items()}


def _complete(config: dict[str, Any], warn: Callable[[str], None]) -> dict[str, Any]:
    facts = contract("checkpoint_format")
    for key in facts["config"]["required"]:
        if key not in config:
            raise TypeError(f"PretrainedConfig.__init__() missing 1 required keyword-only argument: '{key}'")
    for key in _INTEGERS & config.keys():
        if config[key] is not None and type(config[key]) is not int:
            raise TypeError(f"config.json: {key} is {config[key]!r}, not an integer")
    if config["dtype"] not in {"float16", "bfloat16", "float32"}:
        raise KeyError(config["dtype"])
    fields = facts["config"]["fields"]
    known = {*fields, *fields["llama_extra"], *(name.partition("{")[0] for name in fields["modelopt_extra"])}
    for key in sorted(config.keys() - known):
        warn(f"Implicitly setting PretrainedConfig.{key} = {config[key]!r}")
    heads = config["num_attention_heads"]
    defaults = {
        "logits_dtype": "float32",
        "num_key_value_heads": heads,
        "head_size": config["hidden_size"] // heads,
        "intermediate_size": 4 * config["hidden_size"],
    }
    quantization = _quantization(config.get("quantization") or {}, facts)
    return {**defaults, **config, "mapping": _mapping(config.get("mapping") or {}), "quantization": quantization}


def _quantization(given: dict[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    known: dict[str, Any] = facts["config"]["fields"]["quantization"]
    allowed = {*known, *(["quantized_layers"] if given.get("quant_algo") == "MIXED_PRECISION" else [])}
    for key in given:
        if key not in allowed:
            raise TypeError(f"QuantConfig.__init__() got an unexpected keyword argument '{key}'")
    for key, names in (("quant_algo", "quant_algos"), ("kv_cache_quant_algo", "kv_cache_quant_algos")):
        if given.get(key) is not None and given[key] not in facts[names]:
            raise ValueError(f"'{given[key]}' is not a valid QuantAlgo")
    return known | given


def _mapping(given: dict[str, Any]) -> dict[str, int]:
    known = {"world_size": 1, "tp_size": 1, "pp_size": 1, "cp_size": 1, "moe_tp_size": -1, "moe_ep_size": -1}
    for key in given:
        if key not in known:
            raise TypeError(f"Mapping.__init__() got an unexpected keyword argument '{key}'")
    mapping = known | given
    tp, pp, cp = mapping["tp_size"], mapping["pp_size"], mapping["cp_size"]
    if mapping["world_size"] != tp * pp * cp:
        raise ValueError(
            "world_size must equal to tp_size * pp_size * cp_size, "
            f"but got {mapping['world_size']} != {tp} * {pp} * {cp}"
        )
    return mapping


def _check_tensors(
    checkpoint: Checkpoint, rank: int, tensors: Mapping[str, Header], warn: Callable[[str], None]
) -> None:
    wanted = _required(checkpoint, rank)
    missing = sorted(wanted.keys() - tensors.keys())
    if missing:
        raise RuntimeError(f"Required but not provided tensors:{set(missing)}")
    for name, shape in wanted.items():
        if shape is not None and tensors[name].shape != shape:
            raise AssertionError(
                "The value updated is not the same shape as the original. "
                f"Updated: {tensors[name].shape}, original: {shape} ({name} of rank {rank})"
            )
        expected = _WEIGHT_TYPES.get(checkpoint.quant_algo or "")
        is_quantized = name.endswith(".weight") and f"{name[:-7]}.weights_scaling_factor" in wanted
        if expected and is_quantized and tensors[name].dtype != expected:
            raise AssertionError(f"{name} of rank {rank} is {tensors[name].dtype}, {expected} is needed")
    extra = sorted(tensors.keys() - wanted.keys())
    if extra:
        warn(f"Provided but not required tensors: {set(extra)}")


def _required(checkpoint: Checkpoint, rank: int) -> dict[str, tuple[int, ...] | None]:
    """Names of the tensors that a rank must have, and the shapes that follow from config.json."""
    config, stage = checkpoint.config, rank // checkpoint.tp_size
    hidden = config["hidden_size"]
    wanted: dict[str, tuple[int, ...] | None] = {}
    if stage == 0:
        wanted["transformer.vocab_embedding.weight"] = None
    if stage == checkpoint.pp_size - 1:
        wanted["transformer.ln_f.weight"] = (hidden,)
        if stage != 0:
            wanted["lm_head.weight"] = None
    # The layers' numbers are local to the stage.
    for layer in range(config["num_hidden_layers"] // checkpoint.pp_size):
        prefix = f"transformer.layers.{layer}"
        wanted[f"{prefix}.input_layernorm.weight"] = (hidden,)
        wanted[f"{prefix}.post_layernorm.weight"] = (hidden,)
        for name, shape in _linear_shapes(checkpoint).items():
            wanted |= _linear(checkpoint, f"{prefix}.{name}", shape)
        if checkpoint.kv_cache_quant_algo:
            wanted[f"{prefix}.attention.kv_cache_scaling_factor"] = None
    return wanted


def _linear_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    """(out, in) of the linear layers on one rank."""
    config, tp = checkpoint.config, checkpoint.tp_size
    hidden, head = config["hidden_size"], config["head_size"]
    q = config["num_attention_heads"] // tp * head
    kv = max(config["num_key_value_heads"] // tp, 1) * head
    inner = config["intermediate_size"] // tp
    shapes = ((q + 2 * kv, hidden), (hidden, q), (inner, hidden), (inner, hidden), (hidden, inner))
    return dict(zip(_LINEARS, shapes, strict=True))


def _linear(checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> dict[str, tuple[int, ...] | None]:
    facts = contract("checkpoint_format")["llama_tensors"]["per_linear"]
    excluded = checkpoint.config["quantization"]["exclude_modules"] or []
    algo = checkpoint.quant_algo
    if algo is None or algo == "W8A16" or any(fnmatchcase(name, pattern) for pattern in excluded):
        return {f"{name}.weight": shape}
    entry = dict(facts.get(algo, {"weight": ""}))
    entry |= facts.get(entry.pop("extends", ""), {})
    out, inner = shape
    stored: tuple[int, ...] = {
        "W4A16_AWQ": (out // 2, inner),
        "W4A8_AWQ": (out // 2, inner),
        "NVFP4": (out, inner // 2),
    }.get(algo, shape)
    return {f"{name}.{tensor}": stored if tensor == "weight" else None for tensor in entry if tensor != "extends"}
