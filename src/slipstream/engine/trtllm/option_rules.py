"""Build options that the checkpoint or the GPU does not allow: refused, where the builder would silently override them.

Sources, TensorRT-LLM 1.2: tensorrt_llm/builder.py (`build`, `optimize_model_with_config`),
tensorrt_llm/plugin/plugin.py (`PluginConfig.validate`), tensorrt_llm/models/llama/model.py (user buffers).
"""

from __future__ import annotations

from slipstream.engine.trtllm.attention import as_built
from slipstream.engine.trtllm.facts import CheckpointFacts
from slipstream.engine.trtllm.options import REDUCE_FUSION, iteration_tokens
from slipstream.errors import SpecError
from slipstream.spec.engine import EngineSpec, TrtllmBuildSpec

_HOPPER = 90
# Exactly this one: PluginConfig.validate looks the number up.
_NO_FP8_PLUGINS = 100


def check_options(engine: EngineSpec, facts: CheckpointFacts, options: TrtllmBuildSpec, sm: int | None) -> None:
    """Raise SpecError for the first option of `engine.trtllm_build` that the engine could not have as it is given."""
    _check_fp8_context(facts, options, sm)
    _check_gemm(facts, options)
    _check_fp8_plugins(facts, options, sm)
    _check_reduce_fusion(facts, options)
    _check_reduce_scatter(facts, options)
    _check_opt_num_tokens(engine, options)


def _check_fp8_context(facts: CheckpointFacts, options: TrtllmBuildSpec, sm: int | None) -> None:
    asked = options.use_fp8_context_fmha
    if asked is None:
        return
    reason = as_built(facts, paged=options.use_paged_context_fmha, fp8=asked, sm=sm).fp8_reason
    if reason:
        raise _overridden(options, "use_fp8_context_fmha", reason)


def _check_gemm(facts: CheckpointFacts, options: TrtllmBuildSpec) -> None:
    plugin, algo = options.gemm_plugin, facts.quant_algo
    if plugin is None:
        return
    if options.low_latency_gemm_plugin and plugin != "disable":
        raise _overridden(options, "gemm_plugin", "low_latency_gemm_plugin takes its place")
    if plugin in {"fp8", "nvfp4"} and algo != plugin.upper():
        raise _overridden(options, "gemm_plugin", f"the weights are {facts.weights}")
    if algo == "NVFP4" and plugin not in {"nvfp4", "disable"}:
        raise _overridden(options, "gemm_plugin", "the builder sets nvfp4 for NVFP4 weights")
    if plugin.endswith(("16", "32")) and plugin != facts.dtype:
        raise _overridden(options, "gemm_plugin", f"the model computes in {facts.dtype}")


def _check_fp8_plugins(facts: CheckpointFacts, options: TrtllmBuildSpec, sm: int | None) -> None:
    for name in ("low_latency_gemm_plugin", "gemm_swiglu_plugin"):
        if not getattr(options, name):
            continue
        if facts.quant_algo != "FP8":
            raise _overridden(options, name, f"it needs FP8 weights, these are {facts.weights}")
        if sm == _NO_FP8_PLUGINS:
            raise _overridden(options, name, f"trtllm-build raises for it on sm_{sm}")
    if options.gemm_swiglu_plugin and sm not in {None, _HOPPER}:
        raise _overridden(options, "gemm_swiglu_plugin", f"it is for sm_{_HOPPER}, the GPU is sm_{sm}")
    if options.gemm_swiglu_plugin and not options.use_fused_mlp:
        raise _overridden(options, "gemm_swiglu_plugin", "it needs use_fused_mlp, which is false")
    if options.low_latency_gemm_plugin and options.weight_streaming:
        raise _overridden(options, "low_latency_gemm_plugin", "weight_streaming goes with no GEMM plugin")


def _check_reduce_fusion(facts: CheckpointFacts, options: TrtllmBuildSpec) -> None:
    if options.reduce_fusion or options.user_buffer:
        name = "reduce_fusion" if options.reduce_fusion else "user_buffer"
        if facts.tp_size == 1:
            raise _overridden(options, name, "with tp_size 1 there is no all-reduce")
        if facts.architecture not in REDUCE_FUSION:
            raise _overridden(options, name, f"{facts.architecture} has none, {', '.join(REDUCE_FUSION)} do")
    if not options.user_buffer:
        return
    if facts.architecture != "LlamaForCausalLM" or facts.quant_algo != "FP8":
        found = f"{facts.architecture} in {facts.weights}"
        raise _overridden(options, "user_buffer", f"it is for LlamaForCausalLM in FP8, found {found}")
    if options.weight_streaming or options.low_latency_gemm_plugin or options.gemm_plugin not in {None, "fp8"}:
        raise _overridden(options, "user_buffer", "it needs the FP8 GEMM plugin, which another option switches off")


def _check_reduce_scatter(facts: CheckpointFacts, options: TrtllmBuildSpec) -> None:
    if options.pp_reduce_scatter and facts.architecture != "MixtralForCausalLM":
        raise _overridden(options, "pp_reduce_scatter", f"it is for MixtralForCausalLM, found {facts.architecture}")


def _check_opt_num_tokens(engine: EngineSpec, options: TrtllmBuildSpec) -> None:
    opt, limit = options.opt_num_tokens, iteration_tokens(engine, options)
    if opt is not None and opt > limit:
        raise _overridden(options, "opt_num_tokens", f"an iteration has at most {limit} tokens")


def _overridden(options: TrtllmBuildSpec, name: str, reason: str) -> SpecError:
    shown = str(getattr(options, name)).lower()  # as YAML writes it
    return SpecError(
        f"engine.trtllm_build.{name} is {shown}, which trtllm-build would refuse or override: {reason}",
        mend=f"leave out engine.trtllm_build.{name}",
    )
