"""A deployment in the words of TensorRT-LLM's `LLM(...)`: what `model.yaml` carries.

Names and types: NVIDIA/TensorRT-LLM, tensorrt_llm/llmapi/llm_args.py (TorchLlmArgs, KvCacheConfig, CudaGraphConfig,
SchedulerConfig, DraftTargetDecodingConfig, NGramDecodingConfig, Eagle3DecodingConfig) of the 1.2 line. Every one of
these groups refuses a name that it does not know, so a wrong one stops the server at its start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from slipstream.errors import SpecError
from slipstream.repository.model_plan import Locations
from slipstream.spec import DeploymentSpec, DraftSpec, EngineSpec, SpeculationSpec

# What `model.yaml` may say, level by level; {} below a name: no level below. `triton_config` is not an argument of
# `LLM`: the Triton model reads it.
KNOWN_ARGUMENTS: Mapping[str, Any] = {
    "model": {},
    "backend": {},
    "trust_remote_code": {},
    "tensor_parallel_size": {},
    "pipeline_parallel_size": {},
    "moe_tensor_parallel_size": {},
    "moe_expert_parallel_size": {},
    "max_batch_size": {},
    "max_num_tokens": {},
    "max_seq_len": {},
    "max_input_len": {},
    "kv_cache_config": {"free_gpu_memory_fraction": {}, "enable_block_reuse": {}, "dtype": {}},
    "enable_chunked_prefill": {},
    "scheduler_config": {"capacity_scheduler_policy": {}},
    "cuda_graph_config": {"max_batch_size": {}, "enable_padding": {}},
    "disable_overlap_scheduler": {},
    "speculative_config": {
        "decoding_type": {},
        "max_draft_len": {},
        "speculative_model": {},
        "max_matching_ngram_size": {},
    },
    "triton_config": {
        "max_batch_size": {},
        "decoupled": {},
        "cancellation_check_period_ms": {},
        "max_queue_size": {},
        "add_special_tokens": {},
        "skip_special_tokens": {},
        "exclude_input_in_output": {},
        "accumulate_tokens": {},
    },
}


def model_yaml(spec: DeploymentSpec, locations: Locations) -> dict[str, Any]:
    """The contents of `model.yaml`; SpecError for a setting that this target has no word for."""
    _refuse_unserved(spec)
    return {
        "model": locations.engine_dir,
        "backend": spec.runtime.llmapi.backend,
        **({"trust_remote_code": True} if spec.runtime.llmapi.trust_remote_code else {}),
        **_parallelism(spec.engine),
        "max_batch_size": spec.engine.max_batch_size,
        "max_num_tokens": spec.engine.max_num_tokens,
        "max_seq_len": spec.engine.max_seq_len,
        "max_input_len": spec.engine.max_input_len,
        **_execution(spec),
        **_speculation(spec.engine, locations),
        "triton_config": _triton_config(spec),
    }


def _refuse_unserved(spec: DeploymentSpec) -> None:
    runtime = spec.runtime
    if spec.engine.lora is not None:
        raise SpecError(
            "engine.lora is given: the Triton model of the LLM API has no tensor that chooses an adapter in 1.2.1",
            mend="leave engine.lora out, or set engine.target to tensorrt_llm",
        )
    if runtime.engine_instances > 1:
        raise SpecError(
            f"runtime.engine_instances is {runtime.engine_instances}: the LLM API's model runs once in a server",
            mend="set it to 1, and start one server for each replica",
        )
    waits = runtime.default_queue_timeout_microseconds
    if waits or runtime.allow_queue_timeout_override:
        raise SpecError(
            f"runtime.default_queue_timeout_microseconds is {waits} and allow_queue_timeout_override"
            f" {str(runtime.allow_queue_timeout_override).lower()}: the LLM API's model has no queue in Triton",
            mend="leave both out; runtime.max_queue_size refuses what would wait too long",
        )
    if spec.quantization.kv_cache == "int8":
        raise SpecError(
            "quantization.kv_cache is int8: the LLM API has no INT8 KV cache",
            mend="set quantization.kv_cache to fp8 or auto",
        )


def _parallelism(engine: EngineSpec) -> dict[str, Any]:
    sizes = {"tensor_parallel_size": engine.tp_size, "pipeline_parallel_size": engine.pp_size}
    if engine.moe_ep_size > 1:
        sizes["moe_expert_parallel_size"] = engine.moe_ep_size
        sizes["moe_tensor_parallel_size"] = engine.tp_size // engine.moe_ep_size
    return sizes


def _execution(spec: DeploymentSpec) -> dict[str, Any]:
    runtime, llm = spec.runtime, spec.runtime.llmapi
    # Without padding a batch of an uncaptured size runs without a graph. None switches graphs off.
    graphs = {"max_batch_size": spec.engine.max_batch_size, "enable_padding": True} if llm.cuda_graph else None
    return {
        "kv_cache_config": {
            "free_gpu_memory_fraction": runtime.kv_cache_free_gpu_mem_fraction,
            "enable_block_reuse": runtime.enable_kv_cache_reuse,
            "dtype": spec.quantization.kv_cache,
        },
        "enable_chunked_prefill": llm.enable_chunked_prefill and runtime.enable_chunked_context,
        "scheduler_config": {"capacity_scheduler_policy": runtime.batch_scheduler_policy.upper()},
        "cuda_graph_config": graphs,
        "disable_overlap_scheduler": llm.disable_overlap_scheduler,
    }


def _speculation(engine: EngineSpec, locations: Locations) -> dict[str, Any]:
    if engine.draft is not None:
        return {"speculative_config": _draft_target(engine.draft, locations)}
    if engine.speculation is not None:
        return {"speculative_config": _draftless(engine.speculation)}
    return {}


def _draft_target(draft: DraftSpec, locations: Locations) -> dict[str, Any]:
    assert locations.draft_engine_dir is not None, locations
    return {
        "decoding_type": "Draft_Target",
        "max_draft_len": draft.max_draft_len,
        "speculative_model": locations.draft_engine_dir,
    }


def _draftless(speculation: SpeculationSpec) -> dict[str, Any]:
    if speculation.mode == "ngram":
        # Said although 2 is the default now: it was 0, which matches nothing, in releases before 1.2.
        return {"decoding_type": "NGram", "max_draft_len": speculation.max_draft_len, "max_matching_ngram_size": 2}
    assert speculation.mode == "eagle3", speculation
    return {
        "decoding_type": "Eagle3",
        "max_draft_len": speculation.max_draft_len,
        "speculative_model": speculation.speculative_model,
    }


def _triton_config(spec: DeploymentSpec) -> dict[str, Any]:
    """The first two are upstream's own; the rest is read by our model alone."""
    runtime = spec.runtime
    return {
        "max_batch_size": 0,
        "decoupled": runtime.decoupled,
        "cancellation_check_period_ms": runtime.cancellation_check_period_ms,
        "max_queue_size": runtime.max_queue_size,
        "add_special_tokens": runtime.add_special_tokens,
        "skip_special_tokens": runtime.skip_special_tokens,
        "exclude_input_in_output": runtime.exclude_input_in_output,
        "accumulate_tokens": runtime.accumulate_tokens,
    }
