"""The build options of one of a deployment's two engines, and the constants that rules and plan share."""

from __future__ import annotations

from typing import Literal

from slipstream.spec.engine import EngineSpec, SpeculationSpec, TrtllmBuildSpec

# Architectures in which all-reduce and norm are fused, `build` in tensorrt_llm/builder.py.
REDUCE_FUSION = ("LlamaForCausalLM", "Gemma2ForCausalLM", "MedusaForCausalLM")
# Weight formats whose gate and up projection become one GEMM, `main` in tensorrt_llm/commands/build.py.
FUSABLE_MLP = (None, "FP8", "MIXED_PRECISION")


def options_for(engine: EngineSpec, role: Literal["target", "draft"]) -> TrtllmBuildSpec:
    """The options of one engine: what is tuned for the target's weights says nothing about the draft's."""
    build = engine.trtllm_build
    if role == "target":
        return build
    return TrtllmBuildSpec(
        opt_num_tokens=build.opt_num_tokens,
        multiple_profiles=build.multiple_profiles,
        tokens_per_block=build.tokens_per_block,
        use_paged_context_fmha=build.use_paged_context_fmha,
        use_fused_mlp=build.use_fused_mlp,
        workers=build.workers,
    )


def iteration_tokens(engine: EngineSpec, options: TrtllmBuildSpec) -> int:
    """What the builder makes of `engine.max_num_tokens`: `check_max_num_tokens` of tensorrt_llm/_common.py."""
    most = engine.max_batch_size * engine.max_seq_len
    return max(min(engine.max_num_tokens, most), options.tokens_per_block)


def lookahead_draft_len(speculation: SpeculationSpec) -> int:
    """Draft tokens of one step of lookahead (W, N, G), by the formula of TensorRT-LLM's examples/lookahead."""
    window, ngram = speculation.lookahead_window_size, speculation.lookahead_ngram_size
    verified = speculation.lookahead_verification_set_size
    assert window is not None
    assert ngram is not None
    assert verified is not None
    return max(0, ngram - 2) + (window - 1 + verified) * (ngram - 1)
