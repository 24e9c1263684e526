"""Which checkpoints the OpenVINO graph can express; everything else is refused by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from slipstream.errors import SlipstreamError
from slipstream.trtllm_checkpoint import config as checkpoint_config
from slipstream.trtllm_checkpoint.config import Architecture

LINEARS = ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj")
FLOAT_MODULES = ("lm_head", "transformer.vocab_embedding")  # in every format


def read_architecture(config_path: Path) -> Architecture:
    """Read a checkpoint's config.json; raise SlipstreamError for what the OpenVINO graph cannot express."""
    architecture = checkpoint_config.read_architecture(config_path)
    quantization = architecture.quantization
    if architecture.name == "MixtralForCausalLM":
        raise _refused(config_path, "architecture", architecture.name, "there is no mixture of experts")
    if architecture.experts is not None:
        raise _refused(config_path, "moe.num_experts", architecture.experts.count, "there is no mixture of experts")
    for pattern in quantization.exclude_modules:
        if not any(matches_any(name, [pattern]) for name in _module_names(architecture)):
            raise _refused(config_path, "quantization.exclude_modules", pattern, "it matches no linear layer")
    return architecture


def matches_any(module: str, patterns: Iterable[str]) -> bool:
    """Whether TensorRT-LLM's `exclude_modules` names `module`; layers are numbered from 0 on every pipeline stage."""
    return any(fnmatchcase(module, pattern) for pattern in patterns)


def _module_names(architecture: Architecture) -> Iterator[str]:
    yield from FLOAT_MODULES
    for layer in range(architecture.num_layers // architecture.parallelism.pp_size):
        yield from (f"transformer.layers.{layer}.{linear}" for linear in LINEARS)


def _refused(path: Path, key: str, value: object, reason: str) -> SlipstreamError:
    return SlipstreamError(
        f"{path}: {key} is {value!r}; in the OpenVINO graph {reason}",
        mend="use the target tensorrt_llm for this model, or another model or recipe",
    )
