"""Which checkpoints the OpenVINO graph can express; everything else is refused by name."""

from __future__ import annotations

from pathlib import Path

from slipstream.errors import SlipstreamError
from slipstream.trtllm_checkpoint import config as checkpoint_config
from slipstream.trtllm_checkpoint.config import Architecture

FLOAT_MODULES = frozenset({"lm_head", "*lm_head", "*lm_head*", "transformer.vocab_embedding", "*vocab_embedding"})


def read_architecture(config_path: Path) -> Architecture:
    """Read a checkpoint's config.json; raise SlipstreamError for what the OpenVINO graph cannot express."""
    architecture = checkpoint_config.read_architecture(config_path)
    quantization = architecture.quantization
    if architecture.name == "MixtralForCausalLM":
        raise _refused(config_path, "architecture", architecture.name, "there is no mixture of experts")
    if architecture.experts is not None:
        raise _refused(config_path, "moe.num_experts", architecture.experts.count, "there is no mixture of experts")
    if quantization.algo not in (None, "W8A16"):
        raise _refused(config_path, "quantization.quant_algo", quantization.algo, "built are W8A16 and float weights")
    if quantization.kv_cache_algo is not None:
        raise _refused(
            config_path,
            "quantization.kv_cache_quant_algo",
            quantization.kv_cache_algo,
            "the engine sets its own KV type",
        )
    if not FLOAT_MODULES.issuperset(quantization.exclude_modules):
        raise _refused(
            config_path,
            "quantization.exclude_modules",
            list(quantization.exclude_modules),
            "only lm_head and the embedding stay float",
        )
    return architecture


def _refused(path: Path, key: str, value: object, reason: str) -> SlipstreamError:
    return SlipstreamError(
        f"{path}: {key} is {value!r}; in the OpenVINO graph {reason}",
        mend="use the target tensorrt_llm for this model, or another model or recipe",
    )
