"""Scales that the export shares between layers, set to what it writes, so that the model computes what was written.

TensorRT-LLM fuses q, k and v and may fuse gate and up, has one activation scale for all experts and one KV cache scale
per layer. ModelOpt's export unites the scales while it writes; its own function does the same here, before anything is
measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from slipstream.formats import KvCache, Method
from slipstream.quantize.hf_model import ExportDtype

if TYPE_CHECKING:
    from torch import nn

FP8_MAX = 448.0
EXPERT_PARTS = ("w1", "w3", "w2")  # gate, up, down


def unite_scales(model: nn.Module, method: Method, kv_cache: KvCache, dtype: ExportDtype) -> None:
    """Give layers that are fused one scale, and the KV cache the scale that will be read.

    Scales before the weights (SmoothQuant, AWQ) are rounded to `dtype`, in which they are stored, and the weights
    follow: their codes are then those of the stored scale.
    """
    for module in model.modules():
        if hasattr(module, "q_proj"):
            _unite([module.q_proj, module.k_proj, module.v_proj], dtype)
            _unite_kv_scales(module, kv_cache)
        elif hasattr(module, "gate_proj") and method in ("fp8", "nvfp4"):
            _unite([module.gate_proj, module.up_proj], dtype)
        elif hasattr(module, "experts"):
            _unite_experts(list(cast("Iterable[Any]", module.experts)), dtype)
    for module in model.modules():
        if hasattr(module, "weight_quantizer"):
            _round_prequant_scale(module, dtype)


def _unite(fused: list[Any], dtype: ExportDtype) -> None:
    from modelopt.torch.export.quant_utils import preprocess_linear_fusion

    if _is_quantized(fused[0]):
        preprocess_linear_fusion(fused, resmooth_only=True)
        for linear in fused:
            _round_prequant_scale(linear, dtype)
        preprocess_linear_fusion(fused)


def _round_prequant_scale(linear: Any, dtype: ExportDtype) -> None:
    import torch
    from modelopt.torch.export.quant_utils import _update_pre_quant_scale

    scale = linear.input_quantizer.pre_quant_scale
    if scale is None:
        return
    rounded = scale.to(getattr(torch, dtype)).to(scale.dtype)
    if not torch.equal(rounded, scale):
        _update_pre_quant_scale(linear, rounded)


def _unite_kv_scales(attention: Any, kv_cache: KvCache) -> None:
    """One scale for K and V; for FP8 of at least 1.0, the floor of ModelOpt's export."""
    import torch

    if kv_cache == "auto":
        return
    quantizers = (attention.k_bmm_quantizer, attention.v_bmm_quantizer)
    amax = torch.maximum(*(quantizer.amax for quantizer in quantizers))
    for quantizer in quantizers:
        quantizer.amax = amax.clamp(min=FP8_MAX) if kv_cache == "fp8" else amax


def _unite_experts(experts: list[Any], dtype: ExportDtype) -> None:
    from modelopt.torch.export.quant_utils import preprocess_linear_fusion

    if not experts or not _is_quantized(experts[0].w1):
        return
    _give_unseen_experts_a_range(experts)
    for group in (("w1", "w3"), ("w2",)):
        linears = [getattr(expert, part) for expert in experts for part in group]
        preprocess_linear_fusion(linears, resmooth_only=True)
        for linear in linears:
            _round_prequant_scale(linear, dtype)
        _unite_activation_ranges(linears)
    for expert in experts:
        preprocess_linear_fusion([expert.w1, expert.w3])


def _give_unseen_experts_a_range(experts: list[Any]) -> None:
    """An expert that no calibration token was routed to takes over the widest range of the others."""
    for part in EXPERT_PARTS:
        quantizers = [getattr(expert, part).input_quantizer for expert in experts]
        seen = [quantizer.amax for quantizer in quantizers if quantizer.amax is not None]
        for quantizer in quantizers:
            if seen and quantizer.is_enabled and quantizer.amax is None:
                quantizer.amax = max(seen)


def _unite_activation_ranges(linears: list[Any]) -> None:
    enabled = [linear.input_quantizer for linear in linears if linear.input_quantizer.is_enabled]
    ranges = [quantizer.amax for quantizer in enabled if quantizer.amax is not None]
    for quantizer in enabled:
        if ranges:
            quantizer.amax = max(ranges)


def _is_quantized(linear: Any) -> bool:
    return any(quantizer.is_enabled for quantizer in _stages(getattr(linear, "weight_quantizer", None)))


def _stages(quantizer: Any) -> Iterator[Any]:
    """The quantizers of a weight: one, or two in a row for W4A8."""
    if quantizer is None:
        return
    yield from quantizer if hasattr(quantizer, "__iter__") else (quantizer,)
