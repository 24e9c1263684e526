"""The `tensorrt_llm` models of one deployment: the engine, and its draft where it speculates with one.

A compiled engine knows its own limits; the embedded one is told.
"""

from __future__ import annotations

from collections.abc import Mapping

from slipstream.repository.contract import contract
from slipstream.repository.model_plan import Batching, Locations, ModelPlan
from slipstream.repository.parameters import Value
from slipstream.repository.ranks import as_text, draft_ranks, nodes_of
from slipstream.repository.sources import values_from
from slipstream.spec import DeploymentSpec, DraftSpec, Target

# The backend in the `tensorrt_llm` slot. The embedded engine runs in Triton's Python backend.
ENGINE_BACKEND: Mapping[Target, str] = {"openvino": "python", "tensorrt_llm": "tensorrtllm"}

# Whether Triton's dynamic batcher sits before the engine. In Triton 2.51 it drops a request that was cancelled before,
# as the step of an ensemble may be, without an answer: the ensemble's request then stays in flight for ever.
ENGINE_BATCHES: Mapping[Target, bool] = {"openvino": False, "tensorrt_llm": True}

# Of `runtime.stream_interval: auto`.
LONGEST_STREAM_INTERVAL = 8

# What is said of the target and does not hold for its draft.
TARGET_ONLY: Mapping[str, str] = {
    "max_tokens_in_paged_kv_cache": "counts tokens of the target; the draft's cache has its own fraction",
    "max_attention_window_size": "the windows of the target's layers",
    "kv_cache_host_memory_bytes": "host memory is given once; the draft's blocks are cheap to compute again",
    "gpu_weights_percent": "the draft's weights are small",
    "lora_cache_optimal_adapter_size": "adapters belong to the target",
    "lora_cache_max_adapter_size": "adapters belong to the target",
    "lora_cache_gpu_memory_fraction": "adapters belong to the target",
    "lora_cache_host_memory_bytes": "adapters belong to the target",
    "lora_prefetch_dir": "adapters belong to the target",
    "decoding_mode": "left to the backend: speculation needs it so in both engines",
    "guided_decoding_backend": "a grammar is followed in the target",
    "lookahead_window_size": "another way of speculating",
    "lookahead_ngram_size": "another way of speculating",
    "lookahead_verification_set_size": "another way of speculating",
    "medusa_choices": "another way of speculating",
    "eagle_choices": "another way of speculating",
}


def plan_engine(spec: DeploymentSpec, locations: Locations) -> ModelPlan:
    """The model `tensorrt_llm`."""
    values = values_from(spec, "tensorrt_llm")
    if spec.engine.target == "openvino":
        values = _embedded(spec, values) | _embedded_speculation(spec, locations)
    else:
        values |= _gpu_values(spec) | _decoding(spec, values) | _lora(spec, values)
    guided = values["guided_decoding_backend"] is not None
    info = locations.xgrammar_info if guided else None
    values |= _always_present(locations.engine_dir, locations.tokenizer_dir)
    values |= {"guided_decoding_backend": "xgrammar", "xgrammar_tokenizer_info_path": info} if guided else {}
    return _slot(spec, "tensorrt_llm", values, instances=spec.runtime.engine_instances)


def plan_draft(spec: DeploymentSpec, draft: DraftSpec, locations: Locations) -> ModelPlan:
    """The model `tensorrt_llm_draft`: the target's settings where they hold for both, on the target's GPUs."""
    assert locations.draft_engine_dir is not None, locations
    assert locations.draft_tokenizer_dir is not None, locations
    target = values_from(spec, "tensorrt_llm")
    values = {name: value for name, value in target.items() if name not in TARGET_ONLY}
    values |= _always_present(locations.draft_engine_dir, locations.draft_tokenizer_dir)
    if spec.engine.target == "openvino":
        return _slot(spec, "tensorrt_llm_draft", _embedded(spec, values), instances=1)
    values |= _gpu_values(spec)
    values["kv_cache_free_gpu_mem_fraction"] = draft.kv_cache_free_gpu_mem_fraction
    if values["participant_ids"] is not None:
        values["participant_ids"] = as_text((draft_ranks(spec),))
    return _slot(spec, "tensorrt_llm_draft", values, instances=1)


def _slot(spec: DeploymentSpec, name: str, values: Mapping[str, Value], *, instances: int) -> ModelPlan:
    return ModelPlan(
        name=name,
        backend=ENGINE_BACKEND[spec.engine.target],
        max_batch_size=spec.runtime.triton_max_batch_size,
        decoupled=spec.runtime.decoupled,
        batching=Batching.of(spec.runtime) if ENGINE_BATCHES[spec.engine.target] else None,
        instances=instances,
        parameters=values,
    )


def _always_present(engine_dir: str, tokenizer_dir: str) -> dict[str, Value]:
    """Keys that name the artifacts, and those whose absence would end the load."""
    return {
        "gpt_model_type": "inflight_fused_batching",
        "gpt_model_path": engine_dir,
        "tokenizer_dir": tokenizer_dir,
        "guided_decoding_backend": "",
        "xgrammar_tokenizer_info_path": "",
    }


def _gpu_values(spec: DeploymentSpec) -> dict[str, Value]:
    known = contract()["tensorrt_llm"].parameters
    given, nodes = spec.runtime.tensorrt_llm.num_nodes, nodes_of(spec)
    return {
        "FORCE_CPU_ONLY_INPUT_TENSORS": known["FORCE_CPU_ONLY_INPUT_TENSORS"].fixed,
        "executor_worker_path": known["executor_worker_path"].fixed,
        # The backend multiplies the GPU ids by it when it compares them with the ranks of the engine.
        "num_nodes": given or (nodes if nodes > 1 else None),
    }


def _decoding(spec: DeploymentSpec, values: Mapping[str, Value]) -> dict[str, Value]:
    speculation = spec.engine.speculation
    return {"decoding_mode": speculation.mode if speculation else values["decoding_mode"]}


def _lora(spec: DeploymentSpec, values: Mapping[str, Value]) -> dict[str, Value]:
    """The backend's own limit is rank 64; an engine that takes larger adapters needs larger pages."""
    key = "lora_cache_max_adapter_size"
    given, lora = values[key], spec.engine.lora
    return {key: lora.max_lora_rank if lora is not None and given is None else given}


def _embedded(spec: DeploymentSpec, values: Mapping[str, Value]) -> dict[str, Value]:
    """`values` for the embedded engine, whose KV cache has a size in GiB; target and draft have one each."""
    kept = {name: value for name, value in values.items() if name != "kv_cache_free_gpu_mem_fraction"}
    draft, interval = spec.engine.draft, spec.runtime.stream_interval
    return {
        **kept,
        "slipstream_execution": spec.runtime.execution,
        "slipstream_kv_cache_gib": spec.runtime.kv_cache_gib,
        "slipstream_max_batch_size": spec.engine.max_batch_size,
        "slipstream_max_queue_size": spec.runtime.max_queue_size,
        "slipstream_max_num_tokens": spec.engine.max_num_tokens,
        "slipstream_max_seq_len": spec.engine.max_seq_len,
        "slipstream_max_input_len": spec.engine.max_input_len,
        "slipstream_stream_interval": LONGEST_STREAM_INTERVAL if interval == "auto" else interval,
        "slipstream_stream_interval_adapts": interval == "auto",
        "slipstream_max_draft_len": draft.max_draft_len if draft else None,
        "max_tokens_in_paged_kv_cache": spec.runtime.kv_cache_tokens,
        "slipstream_prefill_chunk_tokens": spec.runtime.prefill_chunk_tokens,
        "slipstream_request_timeout_s": spec.runtime.request_timeout_s,
        "slipstream_step_timeout_s": spec.runtime.step_timeout_s,
    }


def _embedded_speculation(spec: DeploymentSpec, locations: Locations) -> dict[str, Value]:
    speculation = spec.engine.speculation
    if speculation is None:
        return {}
    return {
        "slipstream_speculation_mode": speculation.mode,
        "slipstream_speculation": spec.runtime.speculation,
        "slipstream_speculation_draft_len": speculation.max_draft_len,
        "slipstream_speculation_engine_dir": locations.draft_engine_dir,
    }
