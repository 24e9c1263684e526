"""Paged and FP8 attention of prompts: what the builder silently makes of the two flags.

The rules are those of `build` in tensorrt_llm/builder.py, TensorRT-LLM 1.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from slipstream.engine.trtllm.facts import CheckpointFacts
from slipstream.formats import ADA

# Weight formats with which attention can compute in FP8.
FP8_ATTENTION = ("FP8", "W4A8_AWQ", "NVFP4")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextFmha:
    """The two flags as they are in the engine; a reason where one is not as it was asked for, else empty."""

    paged: bool
    fp8: bool
    paged_reason: str
    fp8_reason: str


def as_built(facts: CheckpointFacts, *, paged: bool, fp8: bool, sm: int | None) -> ContextFmha:
    """What the engine has when `use_paged_context_fmha` and `use_fp8_context_fmha` are asked for so.

    An unknown `sm` is taken for one that has FP8: formats that need a newer GPU are refused elsewhere.
    """
    obstacle = _fp8_obstacle(facts, sm)
    kv_is_fp8 = facts.kv_cache_quant_algo == "FP8"
    paged_reason = fp8_reason = ""
    if obstacle:
        fp8_reason = obstacle
        if kv_is_fp8:
            paged_reason = f"an FP8 KV cache is read by FP8 attention only, and {obstacle}"
    elif paged and kv_is_fp8:
        fp8_reason = "paged attention of an FP8 KV cache must be FP8"
    elif paged:
        fp8_reason = f"FP8 attention that is paged needs an FP8 KV cache, this one is {facts.kv_cache}"
    if facts.kv_cache_quant_algo == "INT8":
        paged_reason = "paged attention cannot read an INT8 KV cache"
    built_paged = paged and not paged_reason
    built_fp8 = (kv_is_fp8 if paged else fp8) and not obstacle
    return ContextFmha(
        paged=built_paged,
        fp8=built_fp8,
        paged_reason=paged_reason if built_paged != paged else "",
        fp8_reason=fp8_reason if built_fp8 != fp8 else "",
    )


def _fp8_obstacle(facts: CheckpointFacts, sm: int | None) -> str:
    if facts.quant_algo not in FP8_ATTENTION:
        return f"FP8 attention needs {', '.join(FP8_ATTENTION)} weights, these are {facts.weights}"
    if sm is not None and sm < ADA:
        return f"FP8 attention needs sm_{ADA} or newer, the GPU is sm_{sm}"
    return ""
