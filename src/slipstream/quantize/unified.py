"""Unified Hugging Face export: one quantized checkpoint in Hugging Face's layout, for TensorRT-LLM's LLM API."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from slipstream.errors import SlipstreamError, SpecError
from slipstream.formats import FORMATS
from slipstream.interrupts import deferred_interrupts
from slipstream.quantize.export import KV_ALGOS, ExportPlan, check_quantization
from slipstream.quantize.hf_model import quiet
from slipstream.quantize.local_model import TOKENIZER_FILES
from slipstream.text.tokenizer import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

QUANT_CONFIG_NAME = "hf_quant_config.json"


def check_unified(plan: ExportPlan) -> None:
    """Refuse what the LLM API does not read, or ModelOpt does not export for it."""
    if not plan.format.llm_api:
        others = ", ".join(name for name, entry in FORMATS.items() if entry.llm_api)
        raise SpecError(
            f"recipe {plan.format.name}: TensorRT-LLM's LLM API has no kernel for {plan.quant_algo}",
            mend=f"use one of the recipes {others}, or the target tensorrt_llm",
        )
    if plan.kv_cache == "int8":
        raise SpecError(
            "quantization.kv_cache is int8: ModelOpt's unified export has no INT8 KV cache",
            mend="set quantization.kv_cache to fp8 or auto",
        )
    if plan.parallel.tp_size * plan.parallel.pp_size != 1:
        raise SpecError(
            "a unified checkpoint is one for all ranks: the LLM API cuts it when it loads it",
            mend="plan the export with tp_size 1 and pp_size 1; give the sizes to the LLM API",
        )


def export_unified(model: PreTrainedModel, plan: ExportPlan, model_directory: Path, out: Path) -> None:
    """Write the quantized `model` and the tokenizer of `model_directory` into `out`.

    `model` is changed: its parameters are rounded to the plan's 16 bits, since ModelOpt writes embeddings and norms in
    the type that they have in memory.
    """
    check_unified(plan)
    with deferred_interrupts():
        import torch
        from modelopt.torch.export import export_hf_checkpoint

    dtype = getattr(torch, plan.dtype)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    for name, buffer in model.named_buffers():
        if name.endswith("_pre_quant_scale"):  # the ranges stay in float32
            buffer.data = buffer.data.to(dtype)
    with quiet():
        export_hf_checkpoint(model, dtype=dtype, export_dir=out)
    for name in TOKENIZER_FILES:
        if (model_directory / name).is_file():
            shutil.copyfile(model_directory / name, out / name)
    _check_written(plan, out)


def _check_written(plan: ExportPlan, out: Path) -> None:
    if plan.quant_algo is not None or KV_ALGOS[plan.kv_cache] is not None:
        check_quantization(read_json(out / QUANT_CONFIG_NAME).get("quantization", {}), plan)
    from safetensors import safe_open

    for path in out.glob("*.safetensors"):
        path.chmod((out / "config.json").stat().st_mode)
        with safe_open(path, framework="pt") as file:
            wide = [name for name in file.keys() if _is_wide(name, file.get_slice(name).get_dtype())]  # noqa: SIM118
        if wide:
            raise SlipstreamError(
                f"{path}: {len(wide)} weights are in float32, first {wide[0]}", mend="install the locked ModelOpt 0.47"
            )


def _is_wide(name: str, dtype: str) -> bool:
    """Scales are float32; weights must not be."""
    return dtype == "F32" and name.endswith(("weight", "bias"))
