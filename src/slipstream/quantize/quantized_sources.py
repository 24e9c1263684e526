"""Checkpoints that are quantized already, by other tools: refused by name, with the recipe that comes nearest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipstream.errors import SlipstreamError

_UNQUANTIZED = "give the unquantized model as model.source"
_NEAREST = {
    "gptq": "int4_awq (4 bits) or int8_wo (8 bits)",
    "awq": "int4_awq",
    "bitsandbytes": "int8_wo (8 bits) or int4_awq (4 bits)",
    "fp8": "fp8",
    "fbgemm_fp8": "fp8",
    "compressed-tensors": "fp8, int8_sq or int4_awq, whichever it was made as",
    "modelopt": "the one that it was made with",
    "mxfp4": "nvfp4",
    "quanto": "int8_wo",
    "hqq": "int4_awq",
    "aqlm": "int4_awq",
    "eetq": "int8_wo",
}


def refuse_quantized(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse the model whose config.json is `path`, if it says that its weights are quantized."""
    found = config.get("quantization_config")
    if not found and (path.parent / "hf_quant_config.json").is_file():
        found = {"quant_method": "modelopt"}
    if not found:
        return
    method = str(found.get("quant_method", "unknown") if isinstance(found, dict) else found)
    nearest = _NEAREST.get(method.lower())
    raise SlipstreamError(
        f"{path}: the model is quantized already ({method}); a second rounding would lose more, and the first one's"
        " scales do not fit TensorRT-LLM's format",
        mend=f"{_UNQUANTIZED}; the nearest recipe is {nearest}" if nearest else f"{_UNQUANTIZED} and name a recipe",
    )
