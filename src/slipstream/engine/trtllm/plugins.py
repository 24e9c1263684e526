"""The plugin flags of `trtllm-build`, each with the reason of a value that the spec left open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from slipstream.engine.trtllm.attention import ContextFmha, as_built
from slipstream.engine.trtllm.facts import CheckpointFacts
from slipstream.engine.trtllm.options import FUSABLE_MLP, REDUCE_FUSION
from slipstream.spec.engine import TrtllmBuildSpec


@dataclass(frozen=True, slots=True)
class Setting:
    """One flag of the command."""

    flag: str
    value: str | int | tuple[str, ...] | None  # None: a flag that has no value
    reason: str = ""  # why it has this value, where the spec did not give it

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def words(self) -> tuple[str, ...]:
        """The arguments after the flag."""
        if self.value is None:
            return ()
        return self.value if isinstance(self.value, tuple) else (str(self.value),)


ENABLE = "enable"


def switch(is_on: bool) -> str:
    """The word of `trtllm-build` for on and off."""
    return ENABLE if is_on else "disable"


def plugin_settings(facts: CheckpointFacts, options: TrtllmBuildSpec, sm: int | None) -> Iterator[Setting]:
    """All plugin flags that matter for a decoder, in the order of the command."""
    inflight = "in-flight batching needs it"
    yield Setting("kv_cache_type", "paged", inflight)
    yield Setting("remove_input_padding", ENABLE, inflight)
    yield Setting("gpt_attention_plugin", "auto", f"{inflight}; auto is the model's own type")
    yield Setting("context_fmha", ENABLE, "paged attention of prompts is built on it")
    yield from _context(facts, options, sm)
    yield Setting("tokens_per_block", options.tokens_per_block)
    yield _gemm(facts, options)
    yield Setting("low_latency_gemm_plugin", "fp8" if options.low_latency_gemm_plugin else "disable")
    yield Setting("gemm_swiglu_plugin", "fp8" if options.gemm_swiglu_plugin else "disable")
    yield _reduce_fusion(facts, options)
    yield Setting("user_buffer", switch(options.user_buffer))
    yield _fused_mlp(facts, options)
    yield Setting("multiple_profiles", switch(options.multiple_profiles))
    yield Setting("pp_reduce_scatter", switch(options.pp_reduce_scatter))


def _context(facts: CheckpointFacts, options: TrtllmBuildSpec, sm: int | None) -> Iterator[Setting]:
    asked = options.use_fp8_context_fmha
    wanted = facts.kv_cache_quant_algo == "FP8" if asked is None else asked
    built = as_built(facts, paged=options.use_paged_context_fmha, fp8=wanted, sm=sm)
    yield Setting("use_paged_context_fmha", switch(built.paged), built.paged_reason)
    reason = "" if asked is not None else _fp8_reason(facts, built)
    yield Setting("use_fp8_context_fmha", switch(built.fp8), reason)


def _fp8_reason(facts: CheckpointFacts, built: ContextFmha) -> str:
    if built.fp8_reason:
        return built.fp8_reason
    if built.fp8:
        return f"weights are {facts.weights} and the KV cache FP8"
    return f"the KV cache is {facts.kv_cache}, not FP8"


def _gemm(facts: CheckpointFacts, options: TrtllmBuildSpec) -> Setting:
    if options.gemm_plugin is not None:
        return Setting("gemm_plugin", options.gemm_plugin)
    if options.low_latency_gemm_plugin:
        return Setting("gemm_plugin", "disable", "low_latency_gemm_plugin takes its place")
    if options.weight_streaming:
        return Setting("gemm_plugin", "disable", "weight_streaming does not go with it")
    if facts.quant_algo in {"FP8", "NVFP4"}:
        return Setting("gemm_plugin", facts.quant_algo.lower(), f"weights are {facts.quant_algo}")
    reason = f"weights are {facts.dtype}; auto is this type"
    if facts.quant_algo is not None:
        reason = f"for lm_head, which stays {facts.dtype}; {facts.quant_algo} has plugins of its own"
    return Setting("gemm_plugin", "auto", reason)


def _reduce_fusion(facts: CheckpointFacts, options: TrtllmBuildSpec) -> Setting:
    name = "reduce_fusion"
    if options.reduce_fusion is not None:
        return Setting(name, switch(options.reduce_fusion))
    if facts.tp_size == 1:
        return Setting(name, "disable", "with tp_size 1 there is no all-reduce")
    if facts.architecture not in REDUCE_FUSION:
        return Setting(name, "disable", f"{facts.architecture} has none")
    return Setting(name, ENABLE, f"{facts.architecture} over {facts.tp_size} GPUs: all-reduce and norm in one kernel")


def _fused_mlp(facts: CheckpointFacts, options: TrtllmBuildSpec) -> Setting:
    if options.use_fused_mlp and facts.quant_algo not in FUSABLE_MLP:
        return Setting("use_fused_mlp", "disable", f"the builder fuses no {facts.quant_algo} weights")
    return Setting("use_fused_mlp", switch(options.use_fused_mlp))
