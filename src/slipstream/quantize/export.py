"""Export to the TensorRT-LLM checkpoint format by ModelOpt, with what it leaves out put right and checked."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slipstream.errors import SlipstreamError
from slipstream.interrupts import deferred_interrupts
from slipstream.quantize.architectures import Architecture, trtllm_settings
from slipstream.quantize.hf_model import ExportDtype, quiet
from slipstream.text.tokenizer import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPlan:
    """What is exported, checked to be possible."""

    architecture: Architecture
    quant_algo: str | None
    dtype: ExportDtype
    tp_size: int
    pp_size: int


def export_checkpoint(model: PreTrainedModel, plan: ExportPlan, out: Path) -> None:
    """Write config.json and rank{N}.safetensors of the unquantized `model` into `out`.

    For W8A16 that is what TensorRT-LLM's loader expects: float weights that it quantizes itself, row by row. ModelOpt's
    own int8 weights it would skip. No exclude_modules: then the loader's default leaves out lm_head.
    """
    with deferred_interrupts():
        import torch
        from modelopt.torch.export import export_tensorrt_llm_checkpoint

    with quiet():
        export_tensorrt_llm_checkpoint(
            model,
            plan.architecture.decoder_type,
            getattr(torch, plan.dtype),
            export_dir=out,
            inference_tensor_parallel=plan.tp_size,
            inference_pipeline_parallel=plan.pp_size,
        )
    (out / "quant_cfg.json").unlink(missing_ok=True)  # belongs to mixed precision alone
    for path in out.glob("rank*.safetensors"):
        # The safetensors library leaves its files readable for their owner only: no container could serve them.
        path.chmod((out / "config.json").stat().st_mode)
    config = read_json(out / "config.json")
    check_rotary(config, model.config.to_dict())
    config |= trtllm_settings(plan.architecture)
    config["quantization"] = {"quant_algo": plan.quant_algo, "kv_cache_quant_algo": None}
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def check_rotary(exported: dict[str, Any], model: dict[str, Any]) -> None:
    """Refuse an export without the model's rotary settings: TensorRT-LLM would silently assume base 10000."""
    for field, source in (("rotary_base", "rope_theta"), ("rotary_scaling", "rope_scaling")):
        found, wanted = exported.get(field), model.get(source)
        if found != wanted:
            raise SlipstreamError(
                f"config.json: {field} is {found}, the model's {source} is {wanted}: the export lost it",
                mend="install the locked versions: transformers 4.57 with ModelOpt 0.37 to 0.47, not transformers 5",
            )
