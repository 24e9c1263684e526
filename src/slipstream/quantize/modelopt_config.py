"""A recipe as ModelOpt's quantization config: which quantizers are put where, and how their scales are found."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from slipstream.formats import KvCache, Method
from slipstream.quantize.recipe_schema import RecipeFile

_CONFIG_NAMES: dict[Method, str] = {
    "int8_wo": "INT8_WEIGHT_ONLY_CFG",
    "int8_sq": "INT8_SMOOTHQUANT_CFG",
    "fp8": "FP8_DEFAULT_CFG",
    "int4_awq": "INT4_AWQ_CFG",
    "w4a8_awq": "W4A8_AWQ_BETA_CFG",
    "nvfp4": "NVFP4_DEFAULT_CFG",
}
# ModelOpt's export reads these two alone. The patterns *.k_proj.output_quantizer of older versions, still used by
# TensorRT-LLM's own quantize script for INT8, are accepted and lost.
KV_QUANTIZERS = "*[kv]_bmm_quantizer"
_KV_BITS: dict[KvCache, int | tuple[int, int]] = {"fp8": (4, 3), "int8": 8}


def modelopt_config(
    settings: RecipeFile, kv_cache: KvCache, *, alpha: float | None = None, resume_directory: Path | None = None
) -> dict[str, Any] | None:
    """The config for `mtq.quantize`, a copy that belongs to the caller; None where nothing is to be quantized.

    `alpha` is SmoothQuant's, for a recipe that searches it; `resume_directory` keeps each calibrated layer.
    """
    config = _weights(settings, alpha if alpha is not None else settings.alpha)
    config["quant_cfg"] += [{"quantizer_name": f"{pattern}.*", "enable": False} for pattern in settings.exclude]
    if kv_cache != "auto":
        config["quant_cfg"] += [
            {"quantizer_name": KV_QUANTIZERS, "cfg": {"num_bits": _KV_BITS[kv_cache], "axis": None}}
        ]
    if resume_directory is not None:
        config["algorithm"] = _layer_by_layer(config["algorithm"], resume_directory)
    return config if settings.method != "none" or kv_cache != "auto" else None


def _weights(settings: RecipeFile, alpha: float | None) -> dict[str, Any]:
    import modelopt.torch.quantization as mtq

    if settings.method == "none":
        return {"quant_cfg": [{"quantizer_name": "*", "enable": False}], "algorithm": "max"}
    # A copy: ModelOpt's configs are module globals, and what one run changes the next would find.
    config: dict[str, Any] = copy.deepcopy(getattr(mtq, _CONFIG_NAMES[settings.method]))
    if alpha is not None:
        config["algorithm"] = {"method": "smoothquant", "alpha": alpha}
    if settings.group_size is not None:
        _set_group_size(config, settings.group_size)
    return config


def _layer_by_layer(algorithm: str | dict[str, Any], directory: Path) -> dict[str, Any]:
    """The same algorithm on one layer after another, each seeing the inputs that it would see in a whole pass."""
    settings = {"method": algorithm} if isinstance(algorithm, str) else algorithm
    layerwise = {"enable": True, "checkpoint_dir": str(directory), "get_qdq_activations_from_prev_layer": False}
    return settings | {"layerwise": layerwise}


def _set_group_size(config: dict[str, Any], group_size: int) -> None:
    """W4A8 has two weight quantizers in a row, of which the first has groups."""
    weights = next(entry for entry in config["quant_cfg"] if entry["quantizer_name"] == "*weight_quantizer")
    stages = weights["cfg"] if isinstance(weights["cfg"], list) else [weights["cfg"]]
    grouped = [stage for stage in stages if "block_sizes" in stage]
    assert len(grouped) == 1, "ModelOpt's config has changed its form"
    grouped[0]["block_sizes"][-1] = group_size
