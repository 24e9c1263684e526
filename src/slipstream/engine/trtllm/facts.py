"""What `trtllm-build` decides by: the few facts of a checkpoint's config.json, any architecture.

Required keys and the names of formats: `PretrainedConfig` and `QuantConfig` of tensorrt_llm/models/modeling_utils.py
and `QuantAlgo` of tensorrt_llm/quantization/mode.py, TensorRT-LLM 1.2.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

from slipstream.errors import SlipstreamError
from slipstream.formats import KvCache, Method, format_for
from slipstream.trtllm_checkpoint.config import Config

QUANT_ALGOS = (
    "W8A16",
    "W4A16",
    "W4A16_AWQ",
    "W4A8_AWQ",
    "W8A16_GPTQ",
    "W4A16_GPTQ",
    "W8A8_SQ_PER_CHANNEL",
    "W8A8_SQ_PER_TENSOR_PLUGIN",
    "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN",
    "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN",
    "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN",
    "W4A8_QSERVE_PER_GROUP",
    "W4A8_QSERVE_PER_CHANNEL",
    "FP8",
    "FP8_PER_CHANNEL_PER_TOKEN",
    "FP8_BLOCK_SCALES",
    "INT8",
    "MIXED_PRECISION",
    "NVFP4",
    "W4A8_NVFP4_FP8",
    "W4A8_MXFP4_FP8",
    "W4A8_MXFP4_MXFP8",
    "W4A16_MXFP4",
    "NO_QUANT",
)
KV_CACHE_QUANT_ALGOS = ("FP8", "INT8", "NVFP4")
QUANTIZATION_KEYS = (
    "quant_algo",
    "kv_cache_quant_algo",
    "group_size",
    "smoothquant_val",
    "clamp_val",
    "use_meta_recipe",
    "has_zero_point",
    "pre_quant_scale",
    "exclude_modules",
    "mamba_ssm_cache_dtype",  # since 1.1: what TensorRT-LLM's own convert_checkpoint.py writes, null for a transformer
)
DTYPES = ("float16", "bfloat16", "float32")
_REQUIRED_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads")
_MAX_CONFIG_BYTES = 16 << 20  # config.json of the largest models is some hundred kB: a list of excluded modules
# Rotary scalings whose factor is not a longer context: the config already names the long one.
_NOT_A_STRETCH = {"su", "longrope", "llama3"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFacts:
    """A checkpoint as `trtllm-build` sees it; made by hand where it is still to be quantized (`is_read` false)."""

    architecture: str
    dtype: str
    quant_algo: str | None = None  # None: 16 bits
    kv_cache_quant_algo: str | None = None
    tp_size: int = 1
    pp_size: int = 1
    cp_size: int = 1
    num_hidden_layers: int | None = None
    vocab_size: int | None = None
    context_tokens: int | None = None  # positions that the model was made for, stretched by its rotary scaling
    max_draft_len: int | None = None  # of Medusa's, EAGLE's or ReDrafter's heads in the checkpoint
    num_eagle_layers: int | None = None
    checkpoint_bytes: int | None = None  # of all ranks
    is_read: bool = False  # from config.json; false: what the spec says it will be

    @property
    def world_size(self) -> int:
        """Ranks, and so engine files."""
        return self.tp_size * self.pp_size * self.cp_size

    @property
    def weights(self) -> str:
        """The format of the weights, for messages."""
        return self.quant_algo or self.dtype

    @property
    def kv_cache(self) -> str:
        """The format of the KV cache, for messages."""
        return self.kv_cache_quant_algo or self.dtype


def planned_facts(
    *,
    architecture: str,
    dtype: str,
    method: Method,
    kv_cache: KvCache,
    tp_size: int = 1,
    pp_size: int = 1,
    num_hidden_layers: int | None = None,
    vocab_size: int | None = None,
    context_tokens: int | None = None,
) -> CheckpointFacts:
    """What the checkpoint of a recipe with `method` will say, for a dry run before it exists."""
    return CheckpointFacts(
        architecture=architecture,
        dtype=dtype,
        quant_algo=format_for(method).quant_algo,
        kv_cache_quant_algo=None if kv_cache == "auto" else kv_cache.upper(),
        tp_size=tp_size,
        pp_size=pp_size,
        num_hidden_layers=num_hidden_layers,
        vocab_size=vocab_size,
        context_tokens=context_tokens,
    )


def read_facts(checkpoint_dir: Path) -> CheckpointFacts:
    """Read config.json of a checkpoint and see that its rank files are there.

    Raises SlipstreamError for the first thing that TensorRT-LLM could not load.
    """
    config = _read_config(checkpoint_dir / "config.json")
    for key in _REQUIRED_SIZES:
        config.whole(key)
    mapping = config.section("mapping")
    facts = CheckpointFacts(
        architecture=config.text("architecture"),
        dtype=_one_of(config, "dtype", DTYPES),
        quant_algo=_quantized(config, "quant_algo", QUANT_ALGOS),
        kv_cache_quant_algo=_quantized(config, "kv_cache_quant_algo", KV_CACHE_QUANT_ALGOS),
        tp_size=mapping.whole("tp_size", default=1),
        pp_size=mapping.whole("pp_size", default=1),
        cp_size=1 if mapping.values.get("cp_size") == -1 else mapping.whole("cp_size", default=1),
        num_hidden_layers=config.whole("num_hidden_layers"),
        vocab_size=config.whole("vocab_size") if config.values.get("vocab_size") is not None else None,
        context_tokens=_context_tokens(config),
        max_draft_len=_optional_size(config, "max_draft_len"),
        num_eagle_layers=_optional_size(config, "num_eagle_layers"),
        is_read=True,
    )
    _require_world(mapping, facts)
    return _with_ranks(checkpoint_dir, facts)


def _read_config(path: Path) -> Config:
    try:
        size = path.stat().st_size
        if size > _MAX_CONFIG_BYTES:
            raise SlipstreamError(
                f"{path}: {size} bytes, the limit is {_MAX_CONFIG_BYTES}",
                mend="this is no config.json of a TensorRT-LLM checkpoint: quantize the model again",
            )
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SlipstreamError(
            f"{path}: cannot be read ({error.strerror}), so there is no TensorRT-LLM checkpoint",
            mend="quantize the model first, or let engine.checkpoint_dir name a directory with config.json",
        ) from error
    except (ValueError, RecursionError) as error:
        raise SlipstreamError(f"{path}: is not JSON ({error})", mend="quantize the model again") from error
    if not isinstance(values, dict):
        raise SlipstreamError(f"{path}: holds no JSON object", mend="quantize the model again")
    return Config(path, values)


def _one_of(config: Config, key: str, known: tuple[str, ...]) -> str:
    value = config.text(key)
    if value not in known:
        raise _unknown(config, key, value, known)
    return value


def _quantized(config: Config, key: str, known: tuple[str, ...]) -> str | None:
    section = config.section("quantization")
    extra = sorted(set(section.values) - set(QUANTIZATION_KEYS))
    if extra:
        raise _unknown(config, "quantization", extra[0], QUANTIZATION_KEYS)
    if section.values.get(key) in {None, "NO_QUANT"}:
        return None
    value = section.text(key)
    if value not in known:
        raise _unknown(config, f"quantization.{key}", value, known)
    return value


def _unknown(config: Config, key: str, value: str, known: tuple[str, ...]) -> SlipstreamError:
    return SlipstreamError(
        f"{config.path}: {key} is {value!r}, TensorRT-LLM 1.2 knows {', '.join(known)}",
        mend="quantize the model again, with the versions of docker/versions.env where it is done elsewhere",
    )


def _optional_size(config: Config, key: str) -> int | None:
    return config.whole(key) if config.values.get(key) else None


def _context_tokens(config: Config) -> int | None:
    """As the builder computes it: `_init_max_seq_len` of tensorrt_llm/builder.py."""
    positions = _optional_size(config, "max_position_embeddings")
    scaling = config.section("rotary_scaling")
    kind = scaling.values.get("type", scaling.values.get("rope_type"))
    if positions is None or kind in _NOT_A_STRETCH or scaling.values.get("factor") is None:
        return positions
    return math.ceil(positions * scaling.real("factor"))


def _require_world(mapping: Config, facts: CheckpointFacts) -> None:
    world_size = mapping.whole("world_size", default=facts.world_size)
    if world_size != facts.world_size:
        raise SlipstreamError(
            f"{mapping.path}: mapping.world_size is {world_size}, tp_size x pp_size x cp_size is {facts.world_size}",
            mend="quantize the model again",
        )


def _with_ranks(directory: Path, facts: CheckpointFacts) -> CheckpointFacts:
    """`facts` with the size of the rank files, all of which must be there."""
    paths = [directory / f"rank{rank}.safetensors" for rank in range(facts.world_size)]
    if facts.quant_algo == "MIXED_PRECISION":
        paths.append(directory / "quant_cfg.json")
    for path in paths:
        if not path.is_file():
            raise SlipstreamError(
                f"{path}: is missing, config.json says {facts.world_size} ranks"
                + (" of mixed precision" if facts.quant_algo == "MIXED_PRECISION" else ""),
                mend="quantize the model again",
            )
    return replace(facts, checkpoint_bytes=sum(path.stat().st_size for path in paths))
