"""What the builder refuses, and what it silently changes: from the arguments to the engine's build_config.

Facts: `rules` of tests/contract/trtllm-1.2.1/trtllm_build_flags.json; tensorrt_llm/builder.py @008b2b8d23af, _common.py
@0fccc5b97dd7 (check_max_num_tokens), commands/build.py @65f1d1536e18, plugin/plugin.py @c20322ffd3dc.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from gpu.build_checkpoint import Checkpoint
from gpu.machine import Machine, contract

Warn = Callable[[str], None]
# SpeculativeDecodingMode, an IntFlag: tensorrt_llm/models/modeling_utils.py.
_MODES = {
    None: 1,
    "draft_tokens_external": 2,
    "medusa": 4,
    "lookahead_decoding": 8,
    "explicit_draft_tokens": 16,
    "eagle": 32,
}
_FP8_LIKE = {"FP8", "W4A8_AWQ", "NVFP4"}
_INTEGER_WEIGHTS = {"W8A16", "W4A16", "W4A16_AWQ", "W4A8_AWQ", "W8A16_GPTQ", "W4A16_GPTQ"}
_PER_CHANNEL = {"FP8_PER_CHANNEL_PER_TOKEN"}
_SIZES = ("max_input_len", "max_seq_len", "max_batch_size", "max_beam_width", "max_num_tokens", "opt_num_tokens")
_COPIED = (
    *("max_prompt_embedding_table_size", "gather_context_logits", "gather_generation_logits", "max_draft_len"),
    *("profiling_verbosity", "enable_debug_output", "input_timing_cache", "output_timing_cache", "weight_sparsity"),
    *("max_encoder_input_len", "weight_streaming", "monitor_memory"),
)


def refuse_arguments(arguments: argparse.Namespace) -> None:
    """Pairs of flags that `main` refuses before it reads the checkpoint."""
    if arguments.gather_all_token_logits:
        arguments.gather_context_logits = arguments.gather_generation_logits = True
    if arguments.gather_context_logits and arguments.max_draft_len > 0:
        raise RuntimeError(
            "Gather context logits is not support with draft len > 0. "
            "If want to get the accepted tokens' logits from target model, please just enable gather_generation_logits"
        )
    if arguments.checkpoint_dir is None and arguments.model_config is None:
        raise AttributeError("'NoneType' object has no attribute 'lower'")
    if arguments.multiple_profiles == "enable" and arguments.opt_num_tokens is not None:
        raise RuntimeError(
            "multiple_profiles is enabled, while opt_num_tokens is set. "
            "They are not supposed to be working in the same time for now."
        )


def refuse_plugins(plugins: dict[str, Any], machine: Machine) -> None:
    """`PluginConfig.validate`."""
    names = (
        "gemm_swiglu_plugin",
        "fp8_rowwise_gemm_plugin",
        "low_latency_gemm_plugin",
        "low_latency_gemm_swiglu_plugin",
    )
    for name in (*names, "bert_context_fmha_fp32_acc") if machine.sm == 100 else ():
        if plugins[name]:
            raise NotImplementedError(f"{name}={plugins[name]} is not supported on SM {machine.sm}.")


def plugin_config(arguments: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """The plugin flags as the configuration holds them: `enable` is true, `disable` is false or null."""
    plugins: dict[str, Any] = {"dtype": dtype, "manage_weights": arguments.fast_build}
    for flag in contract("trtllm_build_flags")["groups"]["plugin"]:
        name = flag["flag"].removeprefix("--")
        value = getattr(arguments, name)
        is_switch = flag.get("choices") == ["enable", "disable"]
        if is_switch:
            value = value == "enable"
        plugins[name] = None if value == "disable" else value
    return plugins


def build_config(arguments: argparse.Namespace, checkpoint: Checkpoint, machine: Machine, warn: Warn) -> dict[str, Any]:
    """What the engine's config.json says of how it was built."""
    plugins = plugin_config(arguments, checkpoint.config["dtype"])
    refuse_plugins(plugins, machine)
    _refuse_model(arguments, plugins, checkpoint)
    kv_cache_type = (arguments.kv_cache_type or "paged").lower()  # as 1.2 writes it (PR 8330); 1.1 wrote PAGED
    plugins |= {"paged_kv_cache": kv_cache_type == "paged", "paged_state": False}
    sizes = _sizes(arguments, checkpoint, plugins, warn)
    _fusions(plugins, checkpoint, warn)
    _speculation(arguments, sizes, checkpoint)
    _context_attention(plugins, checkpoint, machine, warn)
    _refuse_blackwell(checkpoint, machine)
    _overrides(arguments, plugins, checkpoint)
    lora = {
        "lora_dir": arguments.lora_dir or [],
        "lora_ckpt_source": arguments.lora_ckpt_source,
        "max_lora_rank": arguments.max_lora_rank,
        "lora_target_modules": arguments.lora_target_modules or [],
    }
    return {
        **sizes,
        **{name: getattr(arguments, name) for name in _COPIED},
        "opt_batch_size": 8,
        "kv_cache_type": kv_cache_type,
        "strongly_typed": True,
        "speculative_decoding_mode": _MODES[arguments.speculative_decoding_mode],
        "use_refit": False,
        "use_strip_plan": arguments.strip_plan,
        "lora_config": lora if plugins["lora_plugin"] else {"lora_dir": [], "lora_target_modules": []},
        "use_mrope": False,
        "plugin_config": plugins,
    }


def _refuse_model(arguments: argparse.Namespace, plugins: dict[str, Any], checkpoint: Checkpoint) -> None:
    if plugins["streamingllm"]:
        raise AssertionError(
            "StreamingLLM is no longer supported because attention sink cannot work with the non-cyclic kv cache."
        )
    if plugins["pp_reduce_scatter"] and checkpoint.architecture != "MixtralForCausalLM":
        raise AssertionError("PP reduce scatter is only supported in the mixtral model.")
    if (plugins["gemm_swiglu_plugin"] or plugins["low_latency_gemm_swiglu_plugin"]) and not plugins["use_fused_mlp"]:
        raise RuntimeError("GemmSwiGLU plugin requires --use_fused_mlp flag")
    # The flag reference: "not with gemm_plugin", and FP8 GEMM "requires same calibration in checkpoint".
    if arguments.weight_streaming and plugins["gemm_plugin"]:
        raise RuntimeError("Weight streaming is not supported with gemm_plugin")
    if plugins["gemm_plugin"] == "fp8" and checkpoint.quant_algo != "FP8":
        raise RuntimeError("gemm_plugin fp8 needs an FP8 checkpoint")
    # Stricter than the tool, which builds an engine that never speculates.
    if (arguments.max_draft_len > 0) != (arguments.speculative_decoding_mode is not None):
        raise RuntimeError("speculative_decoding_mode and max_draft_len are given together or not at all")


def _sizes(
    arguments: argparse.Namespace, checkpoint: Checkpoint, plugins: dict[str, Any], warn: Warn
) -> dict[str, int | None]:
    """The sizes after `_init_max_seq_len` and `check_max_num_tokens`."""
    sizes: dict[str, Any] = {name: getattr(arguments, name) for name in _SIZES}
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise AssertionError(f"{name} must be positive, got {value}")
    if sizes["max_seq_len"] is None:
        sizes["max_seq_len"] = checkpoint.config.get("max_position_embeddings") or 2048
        warn(f"max_seq_len is not specified, using deduced value {sizes['max_seq_len']}")
    if sizes["max_input_len"] > sizes["max_seq_len"]:
        warn(
            f"max_input_len is {sizes['max_input_len']} is larger than max_seq_len {sizes['max_seq_len']}, clipping it"
        )
        sizes["max_input_len"] = sizes["max_seq_len"]
    if not plugins["remove_input_padding"]:
        sizes["max_num_tokens"] = sizes["max_batch_size"] * sizes["max_seq_len"]
        return sizes
    if sizes["opt_num_tokens"] is None and not plugins["multiple_profiles"]:
        sizes["opt_num_tokens"] = min(sizes["max_batch_size"] * sizes["max_beam_width"], sizes["max_num_tokens"])
    sizes["max_num_tokens"] = min(sizes["max_num_tokens"], sizes["max_seq_len"] * sizes["max_batch_size"])
    if plugins["context_fmha"]:
        sizes["max_num_tokens"] = max(sizes["max_num_tokens"], plugins["tokens_per_block"])
        warn("padding removal and fMHA are both enabled, max_input_len is not required and will be ignored")
    else:
        sizes["max_num_tokens"] = max(sizes["max_num_tokens"], sizes["max_input_len"])
    if sizes["opt_num_tokens"] is not None:
        sizes["opt_num_tokens"] = min(sizes["opt_num_tokens"], sizes["max_num_tokens"])
    return sizes


def _fusions(plugins: dict[str, Any], checkpoint: Checkpoint, warn: Warn) -> None:
    families = {"LlamaForCausalLM", "Gemma2ForCausalLM", "MedusaForCausalLM"}
    if plugins["reduce_fusion"] and (checkpoint.tp_size == 1 or checkpoint.architecture not in families):
        warn("Overriding reduce_fusion to False")
        plugins["reduce_fusion"] = False
    if plugins["user_buffer"] and not plugins["reduce_fusion"]:
        warn("Overriding user_buffer to False")
        plugins["user_buffer"] = False
    is_nvfp4_llama = checkpoint.architecture == "LlamaForCausalLM" and checkpoint.quant_algo == "NVFP4"
    if plugins["norm_quant_fusion"] and (plugins["reduce_fusion"] or not is_nvfp4_llama):
        warn("Overriding norm_quant_fusion to False")
        plugins["norm_quant_fusion"] = False


def _speculation(arguments: argparse.Namespace, sizes: dict[str, Any], checkpoint: Checkpoint) -> None:
    mode, draft = arguments.speculative_decoding_mode, arguments.max_draft_len
    if mode is None:
        return
    sizes["max_seq_len"] += draft
    if mode == "eagle":
        if "num_eagle_layers" not in checkpoint.config:
            raise AssertionError("hasattr(model.config, 'num_eagle_layers')")
        sizes["max_seq_len"] += checkpoint.config["num_eagle_layers"]
        if sizes["max_batch_size"] > 512:
            raise AssertionError("Max batch size > 512 is not supported for EAGLE")
        if draft > 256:
            raise AssertionError("Max draft len > 256 is not supported for EAGLE")
    sizes["max_num_tokens"] = max(sizes["max_num_tokens"], sizes["max_batch_size"] * (draft + 1))


def _context_attention(plugins: dict[str, Any], checkpoint: Checkpoint, machine: Machine, warn: Warn) -> None:
    has_fp8_kv = checkpoint.kv_cache_quant_algo == "FP8"
    if not plugins["context_fmha"]:
        warn("Context FMHA is disabled, FP8 Context FMHA and Paged Context FMHA are disabled.")
        plugins |= {"use_fp8_context_fmha": False, "use_paged_context_fmha": False}
    elif checkpoint.quant_algo not in _FP8_LIKE or machine.sm < 89:
        plugins["use_fp8_context_fmha"] = False
        if plugins["use_paged_context_fmha"] and has_fp8_kv:
            warn("FP8 Paged Context FMHA is disabled because FP8 context FMHA is disabled.")
            plugins["use_paged_context_fmha"] = False
    elif plugins["use_paged_context_fmha"]:
        if has_fp8_kv and not plugins["use_fp8_context_fmha"]:
            warn("FP8 Context FMHA is enabled to support FP8 Paged Context FMHA.")
        if not has_fp8_kv and plugins["use_fp8_context_fmha"]:
            warn("FP8 Paged Context FMHA is disabled because it must be used together with fp8 KV Cache.")
        plugins["use_fp8_context_fmha"] = has_fp8_kv
    if plugins["use_paged_context_fmha"] and checkpoint.kv_cache_quant_algo == "INT8":
        warn("Paged Context FMHA is disabled because it doesn't work with int8 kv cache currently.")
        plugins["use_paged_context_fmha"] = False


def _refuse_blackwell(checkpoint: Checkpoint, machine: Machine) -> None:
    if not 100 <= machine.sm < 120:
        return
    algo = checkpoint.quant_algo or ""
    if algo in _INTEGER_WEIGHTS or checkpoint.kv_cache_quant_algo == "INT8":
        raise RuntimeError("INT8/INT4 quantization is not supported on SM>=100.")
    if algo.startswith("W8A8_SQ"):
        raise RuntimeError("SmoothQuant is not supported on SM>=100.")
    if algo in _PER_CHANNEL:
        raise RuntimeError("Per-channel or per-token scaling is not supported on SM>=100.")


def _overrides(arguments: argparse.Namespace, plugins: dict[str, Any], checkpoint: Checkpoint) -> None:
    dtype = checkpoint.config["dtype"]
    if checkpoint.quant_algo == "NVFP4" and arguments.gemm_plugin != "disable":
        plugins["gemm_plugin"] = "nvfp4"
    if checkpoint.quant_algo == "FP8_PER_CHANNEL_PER_TOKEN":
        plugins["fp8_rowwise_gemm_plugin"] = dtype
    plugins["nccl_plugin"] = dtype if checkpoint.world_size > 1 else None
