"""Export to the TensorRT-LLM checkpoint format by ModelOpt, with what it leaves out put right and checked."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.errors import SlipstreamError
from slipstream.formats import Format, KvCache
from slipstream.interrupts import deferred_interrupts
from slipstream.quantize.architectures import Architecture, trtllm_settings
from slipstream.quantize.expert_parallel import distribute_experts
from slipstream.quantize.hf_model import ExportDtype, quiet
from slipstream.quantize.modelopt_quantize import float_weights
from slipstream.quantize.sharding import Parallel
from slipstream.text.tokenizer import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KV_ALGOS: dict[KvCache, str | None] = {"auto": None, "fp8": "FP8", "int8": "INT8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """What is exported, checked to be possible."""

    architecture: Architecture
    format: Format
    kv_cache: KvCache
    dtype: ExportDtype
    parallel: Parallel
    excluded: frozenset[str] = frozenset()  # linear layers that stay in 16 bits

    @property
    def quant_algo(self) -> str | None:
        return self.format.quant_algo

    @property
    def tp_size(self) -> int:
        return self.parallel.tp_size

    @property
    def pp_size(self) -> int:
        return self.parallel.pp_size


def export_checkpoint(model: PreTrainedModel, plan: ExportPlan, out: Path) -> None:
    """Write config.json and rank{N}.safetensors of `model`, quantized as the plan says, into `out`.

    For W8A16 the weights are written as floats, which TensorRT-LLM's loader quantizes itself, row by row; ModelOpt's
    own int8 weights it would skip. ModelOpt unites scales within `model` while it exports.
    """
    with float_weights(model) if plan.quant_algo == "W8A16" else contextlib.nullcontext():
        _export(model, plan, out, tp_size=plan.tp_size)
        if plan.parallel.moe_ep_size > 1:
            experts = out / "experts"
            experts.mkdir()
            _export(model, plan, experts, tp_size=plan.parallel.moe_tp_size)
            distribute_experts(out, experts, plan.parallel, plan.architecture.shape)
    for path in out.glob("rank*.safetensors"):
        # The safetensors library leaves its files readable for their owner only: no container could serve them.
        path.chmod((out / "config.json").stat().st_mode)
    _complete_config(model, plan, out / "config.json")


def check_rotary(exported: dict[str, Any], model: dict[str, Any]) -> None:
    """Refuse an export without the model's rotary settings: TensorRT-LLM would silently assume base 10000."""
    for field, source in (("rotary_base", "rope_theta"), ("rotary_scaling", "rope_scaling")):
        found, wanted = exported.get(field), model.get(source)
        if found != wanted:
            raise SlipstreamError(
                f"config.json: {field} is {found}, the model's {source} is {wanted}: the export lost it",
                mend="install the locked versions: transformers 4.57 with ModelOpt 0.37 to 0.47, not transformers 5",
            )


def check_quantization(written: dict[str, Any], plan: ExportPlan) -> None:
    """Refuse an export that says something else than was asked for: settings are lost without an error."""
    for field, wanted in (("quant_algo", plan.quant_algo), ("kv_cache_quant_algo", KV_ALGOS[plan.kv_cache])):
        if written.get(field) != wanted:
            raise SlipstreamError(
                f"config.json: quantization.{field} is {written.get(field)}, {wanted} was asked for:"
                " the export lost it",
                mend="install the locked ModelOpt 0.47",
            )


def excluded_modules(plan: ExportPlan) -> list[str]:
    """TensorRT-LLM's names of the layers that stay in floats; with pipeline stages, numbered within a stage."""
    per_stage = plan.architecture.shape.layers // plan.pp_size
    names = {"lm_head"}
    for name in plan.excluded:
        _, _, layer, _, part = name.split(".")
        names.add(f"transformer.layers.{int(layer) % per_stage}.{_TRTLLM_PARTS[part]}")
    return sorted(names)


_TRTLLM_PARTS = {
    "q_proj": "attention.qkv",
    "k_proj": "attention.qkv",
    "v_proj": "attention.qkv",
    "o_proj": "attention.dense",
    "gate_proj": "mlp.fc",
    "up_proj": "mlp.gate",
    "down_proj": "mlp.proj",
}


def _complete_config(model: PreTrainedModel, plan: ExportPlan, path: Path) -> None:
    config = read_json(path)
    check_rotary(config, model.config.to_dict())
    config |= trtllm_settings(plan.architecture)
    quantization = config["quantization"]
    if plan.quant_algo == "W8A16":
        # Without exclude_modules the loader leaves out lm_head alone.
        quantization["quant_algo"] = plan.quant_algo
        if plan.excluded:
            quantization["exclude_modules"] = excluded_modules(plan)
    if "exclude_modules" in quantization:  # ModelOpt's order changes from run to run
        quantization["exclude_modules"].sort()
    check_quantization(quantization, plan)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _export(model: PreTrainedModel, plan: ExportPlan, out: Path, *, tp_size: int) -> None:
    with deferred_interrupts():
        import torch
        from modelopt.torch.export import export_tensorrt_llm_checkpoint

    vocab_size = model.config.vocab_size
    try:
        with quiet():
            export_tensorrt_llm_checkpoint(
                model,
                plan.architecture.decoder_type,
                getattr(torch, plan.dtype),
                export_dir=out,
                inference_tensor_parallel=tp_size,
                inference_pipeline_parallel=plan.pp_size,
            )
    finally:
        model.config.vocab_size = vocab_size  # the export of AWQ pads it there, too
    (out / "quant_cfg.json").unlink(missing_ok=True)  # belongs to mixed precision alone
