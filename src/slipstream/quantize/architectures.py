"""Model architectures that the quantize stage takes, and what ModelOpt leaves out of their TensorRT-LLM config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipstream.errors import SlipstreamError
from slipstream.quantize.local_model import architecture
from slipstream.quantize.quantized_sources import refuse_quantized
from slipstream.quantize.sharding import ModelShape
from slipstream.text.tokenizer import read_json

# Hugging Face's class → ModelOpt's decoder type. Each is exported and compared in the tests.
DECODER_TYPES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "MixtralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen",
    "Qwen3ForCausalLM": "qwen",
}
QWEN_SEQ_LENGTH = 8192  # TensorRT-LLM's own value for Qwen2 and Qwen3; read only with logn attention


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What is known of a model from its config.json alone, before any weight is read."""

    name: str
    decoder_type: str
    shape: ModelShape
    hf_config: Mapping[str, Any]


def read_architecture(model_directory: Path) -> Architecture:
    """The architecture of the model in `model_directory`; one that cannot be exported is refused by name."""
    path = model_directory / "config.json"
    return supported_architecture(path, read_json(path))


def supported_architecture(path: Path, config: Mapping[str, Any]) -> Architecture:
    """The architecture that the `config` of the file `path` describes, refused as in `read_architecture`."""
    name = architecture(config, path)
    if name not in DECODER_TYPES:
        raise SlipstreamError(
            f"{path}: architecture {name} is not supported",
            mend=f"use one of: {', '.join(DECODER_TYPES)} (ModelOpt decoder types llama and qwen)",
        )
    refuse_quantized(path, config)
    _refuse_sliding_window(path, config, name)
    _refuse_other_blocks(path, config)
    return Architecture(name=name, decoder_type=DECODER_TYPES[name], shape=_shape(path, config), hf_config=config)


def trtllm_settings(architecture: Architecture) -> dict[str, Any]:
    """Fields of TensorRT-LLM's config that ModelOpt leaves out where TensorRT-LLM is not installed.

    Without them its loader would drop a Llama's biases, give Qwen3 biases that it does not have and fail on Qwen's
    type. Source: LLaMAConfig and QWenConfig of TensorRT-LLM.
    """
    config = architecture.hf_config
    if architecture.decoder_type == "qwen":
        is_qwen3 = architecture.name == "Qwen3ForCausalLM"
        return {
            "attn_bias": not is_qwen3,
            "mlp_bias": False,
            "qk_layernorm": is_qwen3,
            "qwen_type": "qwen3" if is_qwen3 else "qwen2",
            "seq_length": QWEN_SEQ_LENGTH,
        }
    return {
        "attn_bias": bool(config.get("attention_bias", False)),
        "mlp_bias": bool(config.get("mlp_bias", False)),
    }


def _shape(path: Path, config: Mapping[str, Any]) -> ModelShape:
    heads = _size(path, config, "num_attention_heads")
    hidden = _size(path, config, "hidden_size")
    has_experts = config.get("num_local_experts") is not None
    has_kv_heads = config.get("num_key_value_heads") is not None
    return ModelShape(
        attention_heads=heads,
        kv_heads=_size(path, config, "num_key_value_heads") if has_kv_heads else heads,
        head_size=_size(path, config, "head_dim") if config.get("head_dim") is not None else hidden // heads,
        hidden_size=hidden,
        intermediate_size=_size(path, config, "intermediate_size"),
        layers=_size(path, config, "num_hidden_layers"),
        vocab_size=_size(path, config, "vocab_size"),
        experts=_size(path, config, "num_local_experts") if has_experts else None,
    )


def _size(path: Path, config: Mapping[str, Any], field: str) -> int:
    value = config.get(field)
    if not isinstance(value, int) or value < 1:
        raise SlipstreamError(
            f"{path}: {field} is {value!r}, a number of at least 1 is expected", mend="fetch the model again"
        )
    return value


def _refuse_other_blocks(path: Path, config: Mapping[str, Any]) -> None:
    """What would be exported and then refused, or silently computed otherwise."""
    if "rope_parameters" in config and "rope_theta" not in config:
        raise SlipstreamError(
            f"{path}: rope_parameters is how transformers 5 writes the rotary settings, transformers 4 would read"
            " base 10000 instead",
            mend="in a copy of the model write rope_theta and rope_scaling with the values of rope_parameters",
        )
    activation = config.get("hidden_act", "silu")
    if activation != "silu":
        raise SlipstreamError(
            f"{path}: hidden_act is {activation!r}, the Llama family has silu", mend="use a model of the Llama family"
        )
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise SlipstreamError(
            f"{path}: rope_scaling is of type {kind!r}, only llama3 is checked against TensorRT-LLM",
            mend="in a copy of the model set rope_scaling to null and max_position_embeddings to the unscaled context",
        )


def _refuse_sliding_window(path: Path, config: Mapping[str, Any], name: str) -> None:
    """The exported config has no place for a window: attention over longer texts would silently differ."""
    is_used = config.get("use_sliding_window", name in ("MistralForCausalLM", "MixtralForCausalLM"))
    window = config.get("sliding_window")
    if is_used and window is not None and window < config.get("max_position_embeddings", 0):
        raise SlipstreamError(
            f"{path}: attention is limited to a sliding window of {window} tokens, which the export cannot express",
            mend=f"in a copy of the model set sliding_window to null and max_position_embeddings to {window}",
        )
