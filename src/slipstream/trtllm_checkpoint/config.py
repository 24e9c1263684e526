"""What a TensorRT-LLM checkpoint's config.json describes, typed; everything else is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from slipstream.errors import SlipstreamError

QuantAlgo = Literal["W8A16", "W8A8_SQ_PER_CHANNEL", "FP8", "W4A16_AWQ", "W4A8_AWQ", "NVFP4"]
KvCacheAlgo = Literal["FP8", "INT8"]
Dtype = Literal["float16", "bfloat16", "float32"]

ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
# Qwen's architectures and the qwen_type that TensorRT-LLM's model of them reads (tensorrt_llm/models/qwen/config.py).
QWEN_TYPES = {"Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
QUANT_ALGOS: tuple[QuantAlgo, ...] = get_args(QuantAlgo)
KV_CACHE_ALGOS: tuple[KvCacheAlgo, ...] = get_args(KvCacheAlgo)
DEFAULT_GROUP_SIZE = 128  # of QuantConfig in tensorrt_llm/models/modeling_utils.py
NVFP4_BLOCK_SIZE = 16
KV_SCALES = (
    "k_cache_scaling_factor",
    "v_cache_scaling_factor",
    "kv_cache_scaling_factor",
)  # of an attention, where the KV cache is quantized


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3RopeScaling:
    """Llama 3.1's stretch of the low RoPE frequencies."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """How the checkpoint is cut into rank files; rank = pp_rank * tp_size + tp_rank."""

    tp_size: int
    pp_size: int
    moe_tp_size: int  # moe_tp_size * moe_ep_size = tp_size in a mixture of experts
    moe_ep_size: int
    embedding_axis: Literal[0, 1] | None  # None: every tensor-parallel rank holds the whole embedding

    @property
    def world_size(self) -> int:
        return self.tp_size * self.pp_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How the linear layers and the KV cache are stored."""

    algo: QuantAlgo | None  # None: floats
    kv_cache_algo: KvCacheAlgo | None
    group_size: int  # inputs that share a scale, where the format has groups
    exclude_modules: tuple[str, ...]  # stay floats; names as TensorRT-LLM's, with * as in a shell
    has_prequant_scales: bool  # of AWQ: without them TensorRT-LLM drops those that are stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """A mixture of experts in the place of the MLP."""

    count: int
    chosen: int  # experts that compute a token


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A decoder of the Llama family, as a checkpoint's config.json describes it."""

    name: str
    vocab_size: int  # the tokenizer's; shards may hold more rows
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    norm_epsilon: float
    max_position_embeddings: int
    sliding_window_tokens: int | None
    rotary_base: float
    rope_scaling: Llama3RopeScaling | None
    has_qk_norm: bool
    experts: Experts | None
    quantization: Quantization
    parallelism: Parallelism
    dtype: Dtype  # of whatever is not quantized
    has_attention_bias: bool
    has_mlp_bias: bool
    qwen_type: str | None  # TensorRT-LLM's name of the Qwen generation; None: config.json has none

    @property
    def is_qwen(self) -> bool:
        return self.name in QWEN_TYPES


def read_architecture(config_path: Path) -> Architecture:
    """Read a checkpoint's config.json; raise SlipstreamError for a decoder that is not of the Llama family."""
    config = Config(config_path, _read_json(config_path))
    name = config.text("architecture")
    if name not in ARCHITECTURES:
        raise config.refused("architecture", name, f"known are {', '.join(ARCHITECTURES)}")
    _refuse_other_blocks(config)
    num_heads = config.whole("num_attention_heads")
    architecture = Architecture(
        name=name,
        vocab_size=config.whole("vocab_size"),
        hidden_size=config.whole("hidden_size"),
        intermediate_size=config.whole("intermediate_size"),
        num_layers=config.whole("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=config.whole("num_key_value_heads", default=num_heads),
        head_size=config.whole("head_size", default=config.whole("hidden_size") // num_heads),
        norm_epsilon=config.real("norm_epsilon"),
        max_position_embeddings=config.whole("max_position_embeddings"),
        sliding_window_tokens=active_sliding_window(config.values),
        rotary_base=_rotary_base(config),
        rope_scaling=_rope_scaling(config),
        has_qk_norm=name == "Qwen3ForCausalLM",
        experts=_experts(config),
        quantization=_quantization(config),
        parallelism=_parallelism(config),
        dtype=_dtype(config),
        has_attention_bias=config.switch("attn_bias", default=name in QWEN_TYPES),
        has_mlp_bias=config.switch("mlp_bias", default=False),
        qwen_type=None if config.values.get("qwen_type") is None else config.text("qwen_type"),
    )
    _require_whole_heads(config, architecture)
    return architecture


class Config:
    """Typed reading of config.json with errors that name the file and the key."""

    def __init__(self, path: Path, values: Mapping[str, object]) -> None:
        self.path = path
        self.values = values

    def section(self, key: str) -> Config:
        value = self.values.get(key)
        if value is None:
            return Config(self.path, {})
        if not isinstance(value, dict):
            raise self.malformed(key, value, "an object")
        return Config(self.path, value)

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str):
            raise self.malformed(key, value, "a string")
        return value

    def whole(self, key: str, *, default: int | None = None) -> int:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.malformed(key, value, "a whole number above 0")
        return value

    def switch(self, key: str, *, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.malformed(key, value, "true or false")
        return value

    def real(self, key: str) -> float:
        value = self.values.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
            raise self.malformed(key, value, "a number above 0")
        return float(value)

    def malformed(self, key: str, value: object, wanted: str) -> SlipstreamError:
        found = "missing" if value is None else repr(value)
        return SlipstreamError(f"{self.path}: {key} is {found}, {wanted} is needed", mend="quantize the model again")

    def refused(self, key: str, value: object, reason: str) -> SlipstreamError:
        return SlipstreamError(
            f"{self.path}: {key} is {value!r}; {reason}",
            mend="use the target tensorrt_llm for this model, or another model or recipe",
        )


def _read_json(path: Path) -> dict[str, object]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SlipstreamError(f"{path}: cannot be read ({error.strerror})", mend="quantize the model first") from error
    except (ValueError, RecursionError) as error:
        raise SlipstreamError(f"{path}: is not JSON ({error})", mend="quantize the model again") from error
    if not isinstance(values, dict):
        raise SlipstreamError(f"{path}: holds no JSON object", mend="quantize the model again")
    return values


def _refuse_other_blocks(config: Config) -> None:
    """Refuse a decoder block that is not the Llama family's."""
    expected: dict[str, tuple[object, ...]] = {
        "hidden_act": ("swiglu", "silu") if _experts(config) else ("silu",),  # ModelOpt's name for it in Mixtral
        "position_embedding_type": ("rope_gpt_neox",),
        "rotary_pct": (None, 1.0),
        "residual_mlp": (None, False),
        "rmsnorm": (None, True),
        "lm_head_bias": (None, False),
        "use_logn_attn": (None, False),
    }
    for key, accepted in expected.items():
        if config.values.get(key) not in accepted:
            raise config.refused(key, config.values.get(key), f"the Llama family has {accepted[-1]!r}")
    rotary_size = config.values.get("rotary_embedding_dim")
    if rotary_size not in (None, config.values.get("head_size")):
        raise config.refused("rotary_embedding_dim", rotary_size, "whole heads are rotated")


def _rotary_base(config: Config) -> float:
    if config.values.get("rotary_base") is None:
        raise SlipstreamError(
            f"{config.path}: rotary_base is missing, and TensorRT-LLM would silently assume 10000",
            mend="quantize again with transformers 4.57 (transformers 5 loses it in ModelOpt's export)",
        )
    return config.real("rotary_base")


def _rope_scaling(config: Config) -> Llama3RopeScaling | None:
    scaling = config.section("rotary_scaling")
    kind = scaling.values.get("rope_type", scaling.values.get("type"))
    if kind in (None, "default"):
        return None
    if kind != "llama3":
        raise config.refused("rotary_scaling.rope_type", kind, "only 'llama3' is known")
    return Llama3RopeScaling(
        factor=scaling.real("factor"),
        low_frequency_factor=scaling.real("low_freq_factor"),
        high_frequency_factor=scaling.real("high_freq_factor"),
        original_context_tokens=scaling.whole("original_max_position_embeddings"),
    )


def _experts(config: Config) -> Experts | None:
    section = config.section("moe")
    values, prefix = (section.values, "") if section.values else (config.values, "moe_")
    count, chosen = values.get(f"{prefix}num_experts"), values.get(f"{prefix}top_k")
    if not count:
        return None
    if not isinstance(count, int) or not isinstance(chosen, int) or not 1 <= chosen <= count:
        raise config.malformed(
            "moe", {"num_experts": count, "top_k": chosen}, "num_experts of at least top_k of at least 1"
        )
    return Experts(count=count, chosen=chosen)


# QuantConfig(**dict) of tensorrt_llm/models/modeling_utils.py raises TypeError for any other.
_QUANTIZATION_KEYS = frozenset(
    (
        "clamp_val",
        "exclude_modules",
        "group_size",
        "has_zero_point",
        "kv_cache_quant_algo",
        "pre_quant_scale",
        "quant_algo",
        "smoothquant_val",
        "use_meta_recipe",
    )
)


def _quantization(config: Config) -> Quantization:
    section = config.section("quantization")
    for key in sorted(set(section.values) - _QUANTIZATION_KEYS):
        raise config.refused(f"quantization.{key}", section.values[key], "TensorRT-LLM knows no such key")
    algo = section.values.get("quant_algo")
    if algo == "NO_QUANT":
        algo = None
    if algo is not None and algo not in QUANT_ALGOS:
        raise config.refused("quantization.quant_algo", algo, f"known are {', '.join(QUANT_ALGOS)}")
    kv_cache_algo = section.values.get("kv_cache_quant_algo")
    if kv_cache_algo is not None and kv_cache_algo not in KV_CACHE_ALGOS:
        raise config.refused(
            "quantization.kv_cache_quant_algo", kv_cache_algo, f"known are {', '.join(KV_CACHE_ALGOS)}"
        )
    if section.values.get("has_zero_point"):
        raise config.refused("quantization.has_zero_point", value=True, reason="weights are symmetric")
    excluded = section.values.get("exclude_modules") or []
    if not isinstance(excluded, list) or not all(isinstance(name, str) for name in excluded):
        raise config.malformed("quantization.exclude_modules", excluded, "a list of module names")
    return Quantization(
        algo=algo,
        kv_cache_algo=kv_cache_algo,
        group_size=NVFP4_BLOCK_SIZE if algo == "NVFP4" else section.whole("group_size", default=DEFAULT_GROUP_SIZE),
        exclude_modules=tuple(excluded),
        has_prequant_scales=section.switch("pre_quant_scale", default=False),
    )


def _dtype(config: Config) -> Dtype:
    for dtype in DTYPES:
        if config.values.get("dtype") == dtype:
            return dtype
    raise config.refused("dtype", config.values.get("dtype"), f"known are {', '.join(DTYPES)}")


def _parallelism(config: Config) -> Parallelism:
    mapping = config.section("mapping")
    if mapping.values.get("cp_size") not in (None, -1, 1):
        raise config.refused("mapping.cp_size", mapping.values["cp_size"], "context parallelism is not known here")
    axis = config.values.get("embedding_sharding_dim", 0)
    if axis not in (0, 1):
        raise config.refused("embedding_sharding_dim", axis, "an embedding is cut along 0 or 1")
    tp_size, pp_size = mapping.whole("tp_size", default=1), mapping.whole("pp_size", default=1)
    world_size = mapping.whole("world_size", default=tp_size * pp_size)
    if world_size != tp_size * pp_size:
        raise config.refused("mapping.world_size", world_size, f"it must be tp_size x pp_size, {tp_size * pp_size}")
    moe_ep_size = _expert_ranks(mapping, "moe_ep_size", 1)
    if tp_size % moe_ep_size:
        raise config.refused("mapping.moe_ep_size", moe_ep_size, f"it must divide tp_size, {tp_size}")
    return Parallelism(
        tp_size=tp_size,
        moe_ep_size=moe_ep_size,
        moe_tp_size=_expert_ranks(mapping, "moe_tp_size", tp_size // moe_ep_size),
        pp_size=pp_size,
        embedding_axis=(1 if axis == 1 else 0) if config.values.get("use_parallel_embedding") else None,
    )


def _expert_ranks(mapping: Config, key: str, default: int) -> int:
    """TensorRT-LLM writes -1 for a size that it derives."""
    return default if mapping.values.get(key) in (None, -1) else mapping.whole(key)


def active_sliding_window(config: Mapping[str, object]) -> int | None:
    """The window in tokens, or None where there is none or it is switched off."""
    window = config.get("sliding_window")
    return window if isinstance(window, int) and config.get("use_sliding_window", True) else None


def _require_whole_heads(config: Config, architecture: Architecture) -> None:
    """Refuse shards that cut a head in half: ModelOpt exports those without an error."""
    tp_size, pp_size = architecture.parallelism.tp_size, architecture.parallelism.pp_size
    heads, kv_heads = architecture.num_heads, architecture.num_kv_heads
    if heads % kv_heads:
        raise config.refused("num_key_value_heads", kv_heads, f"it must divide num_attention_heads, {heads}")
    if heads % tp_size or (kv_heads % tp_size and tp_size % kv_heads):
        raise SlipstreamError(
            f"{config.path}: {heads} heads and {kv_heads} KV heads cannot be cut for tp_size {tp_size}",
            mend=f"quantize with a tensor parallelism that divides {heads}, and divides {kv_heads} or is its multiple",
        )
    if architecture.num_layers % pp_size:
        raise SlipstreamError(
            f"{config.path}: {architecture.num_layers} layers cannot be cut into {pp_size} equal pipeline stages",
            mend=f"quantize with a pipeline parallelism that divides {architecture.num_layers}",
        )
