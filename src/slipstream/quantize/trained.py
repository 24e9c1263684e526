"""A model trained with ModelOpt's quantizers in it (QAT): restored with its scales and exported as it stands.

ModelOpt's Hugging Face plugin saves it as modelopt_state.pth, which is read without running code (weights only), beside
weights that hold the ranges of the quantizers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.errors import SlipstreamError
from slipstream.formats import FORMATS, KvCache, Method
from slipstream.interrupts import deferred_interrupts
from slipstream.quantize.hf_model import load_model, quiet
from slipstream.quantize.local_model import TRAINED_NAME
from slipstream.quantize.nvfp4_cpu import allow_nvfp4_on_cpu

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def is_trained(model_directory: Path) -> bool:
    """Whether the model carries quantizers from training."""
    return (model_directory / TRAINED_NAME).is_file()


def load_trained(model_directory: Path, method: Method, kv_cache: KvCache) -> PreTrainedModel:
    """The model with its quantizers; refused where it was trained for another recipe or KV cache."""
    with deferred_interrupts():
        import modelopt.torch.opt as mto

    allow_nvfp4_on_cpu()
    with quiet():
        mto.enable_huggingface_checkpointing()
    # In float32: the ranges of the quantizers are stored with the weights and must not be rounded.
    model = load_model(model_directory, "float32")
    _check(model, model_directory, method, kv_cache)
    return model


def _check(model: PreTrainedModel, directory: Path, method: Method, kv_cache: KvCache) -> None:
    from modelopt.torch.export.quant_utils import get_kv_cache_dtype, get_quantization_format

    found = get_quantization_format(model) or "none"
    if found != method:
        raise SlipstreamError(
            f"{directory / TRAINED_NAME}: the model was trained for {found}, the recipe is {method}",
            mend=f"set quantization.recipe to {found}" if found in FORMATS else "give the unquantized model",
        )
    attention = [module for module in model.modules() if hasattr(module, "k_bmm_quantizer")]
    trained_kv = {"FP8": "fp8", "INT8": "int8", None: "auto"}.get(get_kv_cache_dtype(attention))
    if trained_kv != kv_cache:
        raise SlipstreamError(
            f"{directory / TRAINED_NAME}: the model was trained with KV cache {trained_kv}, the spec says {kv_cache}",
            mend=f"set quantization.kv_cache to {trained_kv}" if trained_kv else "give the unquantized model",
        )
